package io.dstl.client;

import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import io.grpc.MethodDescriptor;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.channel.ChannelOption;
import io.grpc.netty.shaded.io.netty.channel.EventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.MultiThreadIoEventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.epoll.Epoll;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollDomainSocketChannel;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollIoHandler;
import io.grpc.netty.shaded.io.netty.channel.unix.DomainSocketAddress;
import java.nio.file.Path;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;

/**
 * One HTTP/2 connection with the one thread that serves it. Everything of gRPC and Netty happens on that thread;
 * other threads
 * only hand tasks to it.
 */
final class Lane {
    private static final int WINDOW_BYTES = 8 << 20;
    /** Error messages travel in trailers. */
    private static final int MAX_METADATA_BYTES = 1 << 20;
    private static final long CLOSE_SECONDS = 10;
    /** How long a call waits for other tries to connect, and how often it looks. */
    private static final long CONNECT_NANOS = TimeUnit.SECONDS.toNanos(1);
    private static final long LOOK_NANOS = TimeUnit.MILLISECONDS.toNanos(5);
    private static final AtomicInteger NUMBERS = new AtomicInteger();

    private final EventLoopGroup loop;
    private final ManagedChannel channel;
    private final AtomicReference<Thread> thread;
    /** Guarded by the {@link Connection}'s lock. */
    int sessions;

    private Lane(EventLoopGroup loop, ManagedChannel channel, AtomicReference<Thread> thread) {
        this.loop = loop;
        this.channel = channel;
        this.thread = thread;
    }

    static Lane open(Path socket) {
        if (!Epoll.isAvailable()) {
            throw Errors.connection(
                    "Unix sockets need Linux and Netty's native epoll library, which did not load",
                    Epoll.unavailabilityCause());
        }
        AtomicReference<Thread> thread = new AtomicReference<>();
        String name = "dstl-client-" + NUMBERS.incrementAndGet();
        EventLoopGroup loop = new MultiThreadIoEventLoopGroup(
                1,
                task -> {
                    Thread made = Threads.forNetty(task, name);
                    thread.set(made);
                    return made;
                },
                EpollIoHandler.newFactory());
        ManagedChannel channel = NettyChannelBuilder.forAddress(new DomainSocketAddress(socket.toFile()))
                .eventLoopGroup(loop)
                .channelType(EpollDomainSocketChannel.class, DomainSocketAddress.class)
                // gRPC sets it, and Netty warns each time that such a socket does not have it.
                .withOption(ChannelOption.SO_KEEPALIVE, null)
                .usePlaintext()
                .directExecutor()
                .offloadExecutor(Runnable::run)
                .disableRetry()
                .disableServiceConfigLookUp()
                .flowControlWindow(WINDOW_BYTES)
                .maxInboundMetadataSize(MAX_METADATA_BYTES)
                // Each call says what it takes.
                .maxInboundMessageSize(Integer.MAX_VALUE)
                .build();
        return new Lane(loop, channel, thread);
    }

    /** Runs a task on the lane's thread; false once the lane is closed. */
    boolean execute(Runnable task) {
        try {
            loop.execute(task);
            return true;
        } catch (RejectedExecutionException closed) {
            return false;
        }
    }

    /** Runs a task on the lane's thread, later. Where the lane is closed before, it does not run. */
    void schedule(Runnable task, long nanos) {
        loop.schedule(task, nanos, TimeUnit.NANOSECONDS);
    }

    /** A call, for the lane's thread. */
    <A, B> ClientCall<A, B> call(MethodDescriptor<A, B> method, CallOptions options) {
        return channel.newCall(method, options);
    }

    /**
     * Runs {@code call} at once, unless the last try to connect failed: then as soon as another one has succeeded, which gRPC would
     * put off, or after a while, to meet what those tries met. For the lane's thread.
     */
    void whenConnected(Runnable call) {
        whenConnected(call, System.nanoTime() + CONNECT_NANOS);
    }

    private void whenConnected(Runnable call, long deadline) {
        boolean failed = channel.getState(true) == ConnectivityState.TRANSIENT_FAILURE;
        if (failed && System.nanoTime() < deadline) {
            // A try that is under way goes on.
            channel.resetConnectBackoff();
            schedule(() -> whenConnected(call, deadline), LOOK_NANOS);
        } else {
            call.run();
        }
    }

    /** Ends calls and thread. Does not wait. */
    void beginClose() {
        execute(() -> {
            channel.shutdownNow();
            // Behind what the channel has to tell its calls.
            loop.shutdownGracefully(0, CLOSE_SECONDS, TimeUnit.SECONDS);
        });
    }

    /** Ends calls and thread, and waits for the thread, unless it is the caller's own. */
    void close() {
        beginClose();
        Thread ending = thread.get();
        if (ending == null || ending == Thread.currentThread()) {
            return;
        }
        try {
            ending.join(TimeUnit.SECONDS.toMillis(CLOSE_SECONDS));
        } catch (InterruptedException interrupt) {
            Thread.currentThread().interrupt();
        }
    }
}
