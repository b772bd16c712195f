import io.dstl.client.AggregatingState;
import io.dstl.client.Aggregation;
import io.dstl.client.Backend;
import io.dstl.client.Batch;
import io.dstl.client.DstlClient;
import io.dstl.client.OpenOptions;
import io.dstl.client.Serdes;
import io.dstl.client.Session;
import io.dstl.client.SessionOptions;
import io.dstl.client.StateOptions;
import io.dstl.proto.v1.CheckpointCompleted;
import io.dstl.proto.v1.NoticeKind;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

/**
 * Counts the words of a file, exactly once however often it or its daemon is killed: `WordCount SOCKET FILE ATTEMPT`.
 */
public final class WordCount {
    private static final int LINES_PER_CHECKPOINT = 1000;

    private WordCount() {}

    public static void main(String[] arguments) throws Exception {
        List<String> lines = Files.readAllLines(Path.of(arguments[1]));
        try (DstlClient client = DstlClient.connect(Path.of(arguments[0]))) {
            // Every start has a higher attempt; it restores the newest checkpoint, or begins empty.
            Backend backend = client.open(
                    OpenOptions.of("word-count", "count").attempt(Long.parseLong(arguments[2])).build()).await();
            AggregatingState<String, Long, Long> counts =
                    backend.aggregatingState("counts", Serdes.string(), Aggregation.sum(), StateOptions.NONE);

            // Where the restored checkpoint was: the number of lines before it.
            ByteBuffer attachment = backend.opened().getAttachment().asReadOnlyByteBuffer();
            int next = attachment.hasRemaining() ? attachment.getInt() : 0;
            long checkpoint = 0;
            Session session = backend.session(SessionOptions.DEFAULT).await();
            while (next < lines.size()) {
                int end = Math.min(next + LINES_PER_CHECKPOINT, lines.size());
                for (String line : lines.subList(next, end)) {
                    Batch batch = session.batch();
                    for (String word : line.split("\\W+")) {
                        if (!word.isEmpty()) {
                            counts.add(batch, word, 1L);
                        }
                    }
                    session.send(batch);
                }
                next = end;
                byte[] position = ByteBuffer.allocate(Integer.BYTES).putInt(next).array();
                CheckpointCompleted completed = session.barrier(++checkpoint, position).await();
                session.notify(NoticeKind.NOTICE_KIND_COMPLETE, completed.getCheckpoint()).await();
            }
            for (String word : counts.keys(session)) {
                System.out.println(word + " " + counts.get(session, word));
            }
            session.finish().await();
            backend.close().await();
        }
    }
}
