package io.dstl.flink;

import io.dstl.client.DstlClient;
import io.dstl.proto.v1.HelloRequest;
import io.dstl.proto.v1.HelloResponse;
import io.dstl.proto.v1.StateBackendServiceGrpc;
import io.grpc.Server;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollEventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollServerDomainSocketChannel;
import io.grpc.netty.shaded.io.netty.channel.unix.DomainSocketAddress;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.nio.file.Path;
import java.util.List;

/** A socket whose Hello is that of a real daemon, without features that came later. */
final class OlderDaemon implements AutoCloseable {
    private final Path socket;
    private final EpollEventLoopGroup loop = new EpollEventLoopGroup(1);
    private final Server server;

    private OlderDaemon(Path socket, HelloResponse hello) throws IOException {
        this.socket = socket;
        this.server = NettyServerBuilder.forAddress(new DomainSocketAddress(socket.toFile()))
                .channelType(EpollServerDomainSocketChannel.class).bossEventLoopGroup(loop).workerEventLoopGroup(loop)
                .addService(new StateBackendServiceGrpc.StateBackendServiceImplBase() {
                    @Override
                    public void hello(HelloRequest request, StreamObserver<HelloResponse> answer) {
                        answer.onNext(hello);
                        answer.onCompleted();
                    }
                })
                .build().start();
    }

    /** As {@code daemon} was before it had these features. */
    static OlderDaemon before(Daemon daemon, String... features) throws IOException, InterruptedException {
        try (DstlClient client = DstlClient.connect(daemon.socket())) {
            HelloResponse hello = client.daemon();
            List<String> left = hello.getFeaturesList().stream().filter(feature -> !List.of(features).contains(feature)).toList();
            return new OlderDaemon(daemon.directory().resolve("older"),
                    hello.toBuilder().clearFeatures().addAllFeatures(left).build());
        }
    }

    Path socket() {
        return socket;
    }

    @Override
    public void close() {
        server.shutdownNow();
        loop.shutdownGracefully();
    }
}
