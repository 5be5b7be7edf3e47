import java.nio.CharBuffer;
import java.nio.charset.*;
import java.util.*;
import java.util.zip.CRC32;
import org.apache.shardingsphere.sharding.api.sharding.standard.*;

/** Rule crc32 for Apache ShardingSphere, which has none: the class that `crc32_class` of the plan names. */
public class Crc32Sharding implements StandardShardingAlgorithm<String> {
    static final Map<String, Charset> CHARSETS = Map.of("ascii", StandardCharsets.US_ASCII,
        "latin1", Charset.forName("windows-1252"), "utf8mb3", StandardCharsets.UTF_8, "utf8mb4", StandardCharsets.UTF_8);
    String stem, charset;
    long modulus;

    /** The properties are what modshift publishes with the rule. */
    @Override
    public void init(Properties properties) {
        stem = properties.getProperty("data-sources");
        modulus = Long.parseLong(String.valueOf(properties.get("modulus")));
        charset = properties.getProperty("charset");
        if (!CHARSETS.containsKey(charset)) throw new IllegalArgumentException("text is not placed by " + charset);
    }

    @Override
    public String doSharding(Collection<String> targets, PreciseShardingValue<String> key) {
        String text = key.getValue();
        if (charset.equals("utf8mb3") && text.codePoints().anyMatch(c -> c > 0xffff)) throw new IllegalArgumentException(text);
        try {
            CRC32 crc = new CRC32(); // an encoder, unlike getBytes, refuses what the character set lacks
            crc.update(CHARSETS.get(charset).newEncoder().encode(CharBuffer.wrap(text)));
            return stem + crc.getValue() % modulus;
        } catch (CharacterCodingException refused) {
            throw new IllegalArgumentException(text + " cannot be written in " + charset, refused);
        }
    }

    /** Neighbours lie anywhere. */
    @Override
    public Collection<String> doSharding(Collection<String> targets, RangeShardingValue<String> range) {
        return targets;
    }
}
