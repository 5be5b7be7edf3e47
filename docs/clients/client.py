"""An application's way to the shards during a reshard, in Python with PyMySQL: ../routing.md."""
import json, sys, time, zlib
import pymysql

CHARSETS = {"ascii": "ascii", "latin1": "cp1252", "utf8mb3": "utf-8", "utf8mb4": "utf-8"}
AGAIN = {1040, 1044, 1045, 1053, 1142, 1180, 1205, 1213, 1227, 1290, 1317, 1836, 1927, 2003, 2006,
         2013, 2055, 4151}  # ../routing.md says what each means


class Router:
    def __init__(self, path):
        self.path, self.document = path, None

    def newest(self):
        """The last document stays in use while the file is away, half written or an older one."""
        try:
            with open(self.path, encoding="utf-8") as file:
                found = json.load(file)
            newer = self.document is None or (found["plan"] == self.document["plan"]
                                              and found["version"] > self.document["version"])
            if found["format"] == 1 and newer:
                self.document = found
        except (OSError, ValueError, KeyError):
            pass
        if self.document is None:
            raise LookupError(f"{self.path} holds no routing document of format 1")
        return self.document

    def shard(self, table, key):
        document = self.newest()
        rule, modulus = document["tables"].get(table) or document.get("default"), document["modulus"]
        if rule is None or rule["rule"] == "broadcast":
            raise LookupError(f"{table}: " + ("on every shard" if rule else "not in the routing"))
        if rule["rule"] == "floor_mod":
            return document["shards"][int(key) % modulus]  # Python's % is never negative
        if rule["rule"] == "abs_mod":
            return document["shards"][abs(int(key)) % modulus]
        if rule["rule"] != "crc32" or rule["charset"] == "utf8mb3" and max(key, default="") > "\uffff":
            raise LookupError(f"{table}: cannot place {key!r} by {rule}")
        return document["shards"][zlib.crc32(key.encode(CHARSETS[rule["charset"]])) % modulus]


def transact(router, login, table, key, work, is_done, patience=60):
    """work(cursor) once, in one transaction; is_done(cursor) tells, by a locking read, whether it was."""
    give_up, unsure = time.monotonic() + patience, False
    while True:
        try:
            place = router.shard(table, key)
            with pymysql.connect(host=place["host"], port=place["port"], database=place["schema"],
                                 autocommit=False, connect_timeout=2, read_timeout=10,
                                 **login) as connection:
                with connection.cursor() as cursor:
                    if not (unsure and is_done(cursor)):
                        work(cursor)
                        unsure = True  # what breaks from here on may have been done all the same
                        connection.commit()
                    return
        except pymysql.err.MySQLError as error:
            if error.args[0] not in AGAIN or time.monotonic() > give_up:
                raise
            time.sleep(0.05)


def main(path, user, password):
    """Lines of `shard TABLE KEY` and `write TABLE KEY STATEMENT QUESTION`, by tabs; answers each."""
    router, login = Router(path), {"user": user, "password": password}
    for line in sys.stdin:
        verb, table, key, *sql = line.rstrip("\n").split("\t")
        try:
            if verb == "shard":
                print("ok", router.shard(table, key)["index"], flush=True)
            else:
                transact(router, login, table, key, lambda cursor: cursor.execute(sql[0]),
                         lambda cursor: cursor.execute(sql[1]) > 0)
                print("ok", flush=True)
        except (LookupError, ValueError, pymysql.err.MySQLError) as error:
            print("error", repr(error), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
