import java.io.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.sql.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import javax.sql.DataSource;
import org.apache.shardingsphere.driver.api.yaml.YamlShardingSphereDataSourceFactory;

/**
 * An application that knows ShardingSphere-JDBC and nothing of modshift: it writes orders, and keeps a
 * journal of each transaction that was acknowledged. With `reload` it takes up its configuration anew
 * whenever the file changes; with `follow` the file names a centre, and ShardingSphere follows that.
 *
 *   Shop reload|follow CONFIGURATION JOURNAL FIRST_ID
 *
 * The journal has lines of order number, account, and how many orders that account has by then. It
 * ends when its input ends, and at the first error that no retry mends, which it names.
 */
public class Shop {
    /** What the contract of the routing names; a lost connection has SQLSTATE 08 or none. */
    static final Set<Integer> AGAIN = Set.of(1040, 1044, 1045, 1053, 1142, 1180, 1205, 1213, 1227, 1290, 1317, 1836, 1927, 4151,
        // ShardingSphere's own, of a statement that began by the former rules and went on by the new ones.
        30000);
    static final int WORKERS = 4;
    /** An application gives up after a minute at the latest, as the contract advises. */
    static final long PATIENCE_NS = 60_000_000_000L;

    final AtomicReference<DataSource> source = new AtomicReference<>();
    final AtomicBoolean stop = new AtomicBoolean();
    final Map<String, Integer> errors = new ConcurrentSkipListMap<>();
    final PrintWriter journal;
    volatile Throwable fatal;

    Shop(Path journal) throws IOException { this.journal = new PrintWriter(Files.newBufferedWriter(journal), true); }

    static DataSource open(byte[] text) throws Exception { return YamlShardingSphereDataSourceFactory.createDataSource(text); }

    /**
     * The new one first; then the old pools end, and whoever waits for a connection of theirs asks again.
     * A configuration comes before its side is opened: until then there is no opening it.
     */
    void reload(Path path, byte[] known) {
        long giveUp = Long.MAX_VALUE;
        while (!stop.get()) {
            try {
                byte[] found = Files.readAllBytes(path);
                if (!Arrays.equals(found, known)) {
                    giveUp = Math.min(giveUp, System.nanoTime() + PATIENCE_NS);
                    DataSource old = source.getAndSet(open(found));
                    known = found;
                    giveUp = Long.MAX_VALUE;
                    ((AutoCloseable) old).close();
                    System.out.println("reloaded");
                }
            } catch (Exception error) {
                errors.merge("not to be opened yet: " + error.getClass().getSimpleName(), 1, Integer::sum);
                if (System.nanoTime() > giveUp) fail(error);
            }
            try {
                Thread.sleep(20);
            } catch (InterruptedException stopped) {
                return;
            }
        }
    }

    void fail(Throwable error) {
        fatal = fatal == null ? error : fatal;
        stop.set(true);
    }

    /** Whether the whole transaction may be made again. Notes what it was. */
    boolean mends(SQLException error) {
        boolean mends = false;
        StringBuilder said = new StringBuilder();
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            if (cause instanceof SQLException sql) {
                boolean lost = sql.getSQLState() == null || sql.getSQLState().startsWith("08");
                mends |= lost || AGAIN.contains(sql.getErrorCode());
                said.append(sql.getErrorCode()).append('/').append(sql.getSQLState()).append(' ');
            }
            said.append(cause.getClass().getSimpleName()).append(' ');
        }
        errors.merge(said.toString(), 1, Integer::sum);
        return mends;
    }

    static void order(Connection connection, long id, long account, long count) throws SQLException {
        String insert = "INSERT INTO t_trade_order (id, accountNo, symbol, side, quantity, created, ver) VALUES (?, ?, 'shop', 'buy', 1, NOW(6), ?)";
        try (PreparedStatement statement = connection.prepareStatement(insert)) {
            statement.setLong(1, id);
            statement.setLong(2, account);
            statement.setLong(3, count);
            statement.executeUpdate();
        }
    }

    /** The account's first order counts all of them. */
    static void count(Connection connection, long first, long account) throws SQLException {
        String update = "UPDATE t_trade_order SET ver = ver + 1 WHERE accountNo = ? AND id = ?";
        try (PreparedStatement statement = connection.prepareStatement(update)) {
            statement.setLong(1, account);
            statement.setLong(2, first);
            if (statement.executeUpdate() != 1) throw new IllegalStateException("order " + first + " of " + account + " is gone");
        }
    }

    static boolean isThere(Connection connection, long id, long account) throws SQLException {
        String select = "SELECT id FROM t_trade_order WHERE accountNo = ? AND id = ? FOR UPDATE";
        try (PreparedStatement statement = connection.prepareStatement(select)) {
            statement.setLong(1, account);
            statement.setLong(2, id);
            try (ResultSet found = statement.executeQuery()) {
                return found.next();
            }
        }
    }

    void transact(long id, long account, long first, long count) throws Exception {
        long giveUp = System.nanoTime() + PATIENCE_NS;
        for (boolean unsure = false; ; Thread.sleep(20)) {
            try (Connection connection = source.get().getConnection()) {
                connection.setAutoCommit(false);
                if (unsure && isThere(connection, id, account)) return;
                order(connection, id, account, count);
                if (id != first) count(connection, first, account);
                unsure = true;
                connection.commit();
                return;
            } catch (SQLException error) {
                if (!mends(error) || System.nanoTime() > giveUp) throw error;
            }
        }
    }

    void work(long base, int worker) {
        try {
            long[] accounts = {worker, -1 - worker, 1_000_003L * worker + 7, Long.MAX_VALUE - worker, Long.MIN_VALUE + worker, -1_000_000_007L * (worker + 1)};
            for (long number = 0; !stop.get(); number++) {
                int which = (int) (number % accounts.length);
                long first = base + which, count = 1 + number / accounts.length;
                transact(base + number, accounts[which], first, count);
                journal.println((base + number) + " " + accounts[which] + " " + count);
                Thread.sleep(2);
            }
        } catch (Throwable error) {
            fail(error);
        }
    }

    public static void main(String[] arguments) throws Exception {
        Path configuration = Path.of(arguments[1]);
        Shop shop = new Shop(Path.of(arguments[2]));
        byte[] text = Files.readAllBytes(configuration);
        shop.source.set(open(text));
        long first = Long.parseLong(arguments[3]);
        List<Thread> threads = new ArrayList<>();
        for (int number = 0; number < WORKERS; number++) {
            int worker = number;
            threads.add(new Thread(() -> shop.work(first + worker * 1_000_000_000L, worker)));
        }
        if (arguments[0].equals("reload")) threads.add(new Thread(() -> shop.reload(configuration, text)));
        threads.forEach(Thread::start);
        System.out.println("ready");
        Thread input = new Thread(() -> {
            try {
                while (System.in.read() >= 0) { }
            } catch (IOException gone) { }
            shop.stop.set(true);
        });
        input.setDaemon(true);
        input.start();
        for (Thread thread : threads) thread.join();
        shop.errors.forEach((error, times) -> System.out.println("error " + times + " times: " + error));
        if (shop.fatal != null) shop.fatal.printStackTrace(System.out);
        System.out.println(shop.fatal == null ? "done" : "failed");
        System.out.flush();
        // Pools keep threads of their own.
        Runtime.getRuntime().halt(shop.fatal == null ? 0 : 1);
    }
}
