package io.dstl.client;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.file.Path;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;

/** A Unix socket in front of a daemon's, whose connections a test breaks, or whose answers it loses. */
final class SocketProxy implements AutoCloseable {
    private final Path path;
    private final Path target;
    private final ServerSocketChannel server;
    private final Set<SocketChannel> channels = ConcurrentHashMap.newKeySet();
    private final AtomicInteger connections = new AtomicInteger();
    private volatile boolean losesAnswers;
    private volatile boolean refuses;

    SocketProxy(TestDaemon daemon) {
        this.path = daemon.folder().resolve("proxy-" + System.nanoTime());
        this.target = daemon.socket();
        try {
            server = ServerSocketChannel.open(StandardProtocolFamily.UNIX).bind(UnixDomainSocketAddress.of(path));
        } catch (IOException failed) {
            throw new UncheckedIOException(failed);
        }
        start(this::accept, "proxy");
    }

    private static void start(Runnable task, String name) {
        Thread thread = new Thread(task, name);
        thread.setDaemon(true);
        thread.start();
    }

    private void accept() {
        while (true) {
            try {
                SocketChannel client = server.accept();
                if (refuses) {
                    client.close();
                    continue;
                }
                SocketChannel daemon;
                try {
                    daemon = SocketChannel.open(UnixDomainSocketAddress.of(target));
                } catch (IOException nobody) {
                    client.close();
                    continue;
                }
                channels.add(client);
                channels.add(daemon);
                connections.incrementAndGet();
                start(() -> copy(client, daemon, false), "proxy-up");
                start(() -> copy(daemon, client, true), "proxy-down");
            } catch (IOException closed) {
                return;
            }
        }
    }

    private void copy(SocketChannel from, SocketChannel to, boolean down) {
        ByteBuffer buffer = ByteBuffer.allocate(64 << 10);
        try {
            while (from.read(buffer.clear()) >= 0) {
                buffer.flip();
                while (buffer.hasRemaining() && !(down && losesAnswers)) {
                    to.write(buffer);
                }
            }
        } catch (IOException broken) {
            // Both ends go.
        }
        close(from);
        close(to);
    }

    private void close(SocketChannel channel) {
        channels.remove(channel);
        try {
            channel.close();
        } catch (IOException failed) {
            throw new UncheckedIOException(failed);
        }
    }

    Path path() {
        return path;
    }

    /** How many connections there were so far. */
    int connections() {
        return connections.get();
    }

    /** Breaks every connection. */
    void breakAll() {
        channels.forEach(this::close);
    }

    /** From now on what the daemon says is read and lost, until {@link #breakAndHeal}. */
    void loseAnswers() {
        losesAnswers = true;
    }

    void breakAndHeal() {
        breakAll();
        losesAnswers = false;
    }

    /** From now on new connections are closed at once. */
    void refuse() {
        refuses = true;
        breakAll();
    }

    @Override
    public void close() {
        try {
            server.close();
        } catch (IOException failed) {
            throw new UncheckedIOException(failed);
        }
        breakAll();
    }
}
