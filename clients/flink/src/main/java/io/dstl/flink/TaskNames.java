package io.dstl.flink;

import com.google.protobuf.ByteString;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Names of Flink's things at dstl. */
final class TaskNames {
    private static final Pattern OPERATOR = Pattern.compile("_([0-9a-f]{32})_\\(\\d+/\\d+\\)$");
    private static final int MOST = 64;

    private TaskNames() {}

    /** The job: unique over clusters that share a store, since those have different checkpoint directories. */
    static String job(String jobId, String checkpointDirectory) {
        return jobId + "-" + HexFormat.of().formatHex(hash(checkpointDirectory), 0, 4);
    }

    /** The operator: its id, out of {@code Class_id_(1/2)}; other texts are made to fit. */
    static String operator(String identifier) {
        Matcher matcher = OPERATOR.matcher(identifier);
        return matcher.find() ? matcher.group(1) : fit(identifier, MOST);
    }

    /** A name of at most so many bytes; where it has to be changed, a hash keeps it unique. */
    static String fit(String name, int most) {
        String allowed = name.replaceAll("[^A-Za-z0-9_.-]", "_");
        if (allowed.equals(name) && name.length() <= most && !name.isEmpty() && !name.equals(".") && !name.equals("..")) {
            return name;
        }
        String suffix = "-" + HexFormat.of().formatHex(hash(name), 0, 8);
        return allowed.substring(0, Math.min(allowed.length(), most - suffix.length())) + suffix;
    }

    /** A state's name, which may have any characters. */
    static String fitState(String name, int most) {
        int bytes = name.getBytes(StandardCharsets.UTF_8).length;
        return bytes > 0 && bytes <= most ? name : fit(name, most);
    }

    /** The id of the execution graph, 16 bytes, out of {@code graph_vertex_subtask_attempt}. */
    static ByteString graph(String attemptId) {
        int end = attemptId.indexOf('_');
        return ByteString.copyFrom(HexFormat.of().parseHex(attemptId.substring(0, end)));
    }

    static long hash64(String text) {
        return ByteBuffer.wrap(hash(text)).getLong();
    }

    static byte[] hash(String text) {
        return hash(text.getBytes(StandardCharsets.UTF_8));
    }

    static byte[] hash(byte[] bytes) {
        try {
            return MessageDigest.getInstance("SHA-256").digest(bytes);
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException("every JDK has SHA-256", e);
        }
    }
}
