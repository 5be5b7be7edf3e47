import java.io.*;
import java.nio.charset.StandardCharsets;
import java.util.*;
import org.apache.shardingsphere.sharding.api.sharding.standard.PreciseShardingValue;

/**
 * Asks Crc32Sharding where keys lie, as ShardingSphere does. Each line of the input is a character set, a tab
 * and a key; each line of the output the name of a unit, or "refused".
 *
 *   PlaceByCrc32 STEM MODULUS
 */
public class PlaceByCrc32 {
    public static void main(String[] arguments) throws IOException {
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] parts = line.split("\t", 2);
            System.out.println(place(arguments[0], arguments[1], parts[0], parts[1]));
        }
    }

    static String place(String stem, String modulus, String charset, String key) {
        Properties properties = new Properties();
        properties.setProperty("data-sources", stem);
        properties.setProperty("modulus", modulus);
        properties.setProperty("charset", charset);
        try {
            Crc32Sharding sharding = new Crc32Sharding();
            sharding.init(properties);
            return sharding.doSharding(List.of(), new PreciseShardingValue<>("t", "k", null, key));
        } catch (IllegalArgumentException refused) {
            return "refused";
        }
    }
}
