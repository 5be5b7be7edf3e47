import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import com.google.gson.JsonParser;
import java.io.*;
import java.math.BigInteger;
import java.nio.CharBuffer;
import java.nio.charset.*;
import java.nio.file.*;
import java.sql.*;
import java.util.*;
import java.util.zip.CRC32;

/** An application's way to the shards during a reshard, in Java with JDBC and Gson: ../routing.md. */
public class Client {
    static final Map<String, Charset> CHARSETS = Map.of("ascii", StandardCharsets.US_ASCII,
        "latin1", Charset.forName("windows-1252"), "utf8mb3", StandardCharsets.UTF_8, "utf8mb4", StandardCharsets.UTF_8);
    /** ../routing.md says what each means; a lost connection has SQLSTATE 08 or none. */
    static final Set<Integer> AGAIN = Set.of(1040, 1044, 1045, 1053, 1142, 1180, 1205, 1213, 1227, 1290, 1317, 1836, 1927, 4151);

    interface Step { boolean run(Statement statement) throws SQLException; }

    final Path path;
    JsonObject document;

    Client(Path path) { this.path = path; }

    /** The last document stays in use while the file is away, half written or an older one. */
    JsonObject newest() {
        try {
            JsonObject found = JsonParser.parseString(Files.readString(path)).getAsJsonObject();
            boolean newer = document == null || found.get("plan").equals(document.get("plan"))
                && found.get("version").getAsLong() > document.get("version").getAsLong();
            if (found.get("format").getAsInt() == 1 && newer) document = found;
        } catch (IOException | JsonParseException | IllegalStateException | NullPointerException unreadable) { }
        if (document == null) throw new NoSuchElementException(path + " holds no routing document of format 1");
        return document;
    }

    JsonObject shard(String table, String key) throws CharacterCodingException {
        JsonObject now = newest(), rule = now.getAsJsonObject("tables").getAsJsonObject(table);
        if (rule == null) rule = now.getAsJsonObject("default");
        String name = rule == null ? "none" : rule.get("rule").getAsString();
        BigInteger modulus = now.get("modulus").getAsBigInteger(), hash;
        switch (name) {
            case "floor_mod": hash = new BigInteger(key); break; // and mod() below is never negative
            case "abs_mod": hash = new BigInteger(key).abs(); break;
            case "crc32":
                String charset = rule.get("charset").getAsString();
                if (!CHARSETS.containsKey(charset)) throw new NoSuchElementException(table + ": text is not placed by " + charset);
                if (charset.equals("utf8mb3") && key.codePoints().anyMatch(c -> c > 0xffff)) throw new UnmappableCharacterException(1);
                CRC32 crc = new CRC32(); // an encoder, unlike getBytes, refuses what the character set lacks
                crc.update(CHARSETS.get(charset).newEncoder().encode(CharBuffer.wrap(key)));
                hash = BigInteger.valueOf(crc.getValue());
                break;
            default: throw new NoSuchElementException(table + ": " + (rule == null ? "not in the routing" : "on every shard"));
        }
        return now.getAsJsonArray("shards").get(hash.mod(modulus).intValue()).getAsJsonObject();
    }

    /** work once, in one transaction; isDone tells, by a locking read, whether it was. */
    void transact(Properties login, String table, String key, Step work, Step isDone) throws Exception {
        long giveUp = System.nanoTime() + 60_000_000_000L;
        for (boolean unsure = false; ; Thread.sleep(50)) {
            JsonObject place = shard(table, key);
            String url = "jdbc:mariadb://" + place.get("host").getAsString() + ":" + place.get("port").getAsInt()
                + "/" + place.get("schema").getAsString() + "?connectTimeout=2000&socketTimeout=10000";
            try (Connection connection = DriverManager.getConnection(url, login); Statement statement = connection.createStatement()) {
                connection.setAutoCommit(false);
                if (unsure && isDone.run(statement)) return;
                work.run(statement);
                unsure = true; // what breaks from here on may have been done all the same
                connection.commit();
                return;
            } catch (SQLException error) {
                boolean lost = error.getSQLState() == null || error.getSQLState().startsWith("08");
                if (!lost && !AGAIN.contains(error.getErrorCode()) || System.nanoTime() > giveUp) throw error;
            }
        }
    }

    /** Lines of `shard TABLE KEY` and `write TABLE KEY STATEMENT QUESTION`, by tabs; answers each. */
    public static void main(String[] arguments) throws Exception {
        Client client = new Client(Path.of(arguments[0]));
        Properties login = new Properties();
        login.setProperty("user", arguments[1]);
        login.setProperty("password", arguments[2]);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = lines.readLine()) != null; ) {
            String[] part = line.split("\t");
            try {
                if (part[0].equals("shard")) {
                    System.out.println("ok " + client.shard(part[1], part[2]).get("index"));
                } else {
                    client.transact(login, part[1], part[2], statement -> statement.execute(part[3]),
                        statement -> statement.executeQuery(part[4]).next());
                    System.out.println("ok");
                }
            } catch (SQLException | CharacterCodingException | RuntimeException error) {
                System.out.println("error " + error);
            }
        }
    }
}
