import java.nio.file.*;
import org.apache.shardingsphere.distsql.parser.engine.api.DistSQLStatementParserEngine;

/** Has each statement of a file parsed by ShardingSphere's own parsers: the kernel's and the features'. */
public class DistSql {
    public static void main(String[] arguments) throws Exception {
        DistSQLStatementParserEngine parsers = new DistSQLStatementParserEngine();
        // What it returns is of another class in each release.
        java.lang.reflect.Method parse = parsers.getClass().getMethod("parse", String.class);
        StringBuilder statement = new StringBuilder();
        for (String line : Files.readAllLines(Path.of(arguments[0]))) {
            if (line.startsWith("--")) continue;
            statement.append(line).append('\n');
            if (!line.endsWith(";")) continue;
            String said = statement.toString().trim();
            statement.setLength(0);
            try {
                System.out.println("ok " + parse.invoke(parsers, said).getClass().getSimpleName());
            } catch (java.lang.reflect.InvocationTargetException error) {
                System.out.println("refused " + error.getCause() + ": " + said);
            }
        }
        System.out.println("end " + statement.length());
    }
}
