package io.dstl.client;

import com.google.protobuf.InvalidProtocolBufferException;
import io.dstl.proto.v1.ApplyBatchRequest;
import io.dstl.proto.v1.BackendDescription;
import io.dstl.proto.v1.BackendRef;
import io.dstl.proto.v1.Barrier;
import io.dstl.proto.v1.BatchResult;
import io.dstl.proto.v1.CheckpointCompleted;
import io.dstl.proto.v1.CheckpointIdentity;
import io.dstl.proto.v1.CheckpointRequest;
import io.dstl.proto.v1.CheckpointResponse;
import io.dstl.proto.v1.CloseRequest;
import io.dstl.proto.v1.CloseResponse;
import io.dstl.proto.v1.Limits;
import io.dstl.proto.v1.MaterializeRequest;
import io.dstl.proto.v1.MaterializeResponse;
import io.dstl.proto.v1.Notice;
import io.dstl.proto.v1.NoticeKind;
import io.dstl.proto.v1.NoticeOutcome;
import io.dstl.proto.v1.NotifyRequest;
import io.dstl.proto.v1.NotifyResponse;
import io.dstl.proto.v1.Opened;
import io.dstl.proto.v1.PersistRequest;
import io.dstl.proto.v1.PersistResponse;
import io.dstl.proto.v1.PinRequest;
import io.dstl.proto.v1.RegisterStatesRequest;
import io.dstl.proto.v1.RegisterStatesResponse;
import io.dstl.proto.v1.RegisteredState;
import io.dstl.proto.v1.ReleaseRequest;
import io.dstl.proto.v1.ReleaseResponse;
import io.dstl.proto.v1.SchemaChange;
import io.dstl.proto.v1.StateBackendServiceGrpc;
import io.dstl.proto.v1.StateDescriptor;
import io.dstl.proto.v1.Ttl;
import java.util.BitSet;
import java.util.List;

/** A backend that this client opened. */
final class OpenedBackend implements Backend {
    private final Client client;
    private final Opened opened;
    /** States whose reads touch what they read, and so cost credit. Replaced as a whole, never changed. */
    private volatile BitSet touched = new BitSet();

    OpenedBackend(Client client, Opened opened) {
        this.client = client;
        this.opened = opened;
        learn(opened.getStatesList());
    }

    private List<RegisteredState> learn(List<RegisteredState> states) {
        synchronized (this) {
            BitSet known = (BitSet) touched.clone();
            for (RegisteredState state : states) {
                known.set(state.getId(),
                        state.getStateDescriptor().getTtl().getUpdate() == Ttl.Update.UPDATE_ON_READ_AND_WRITE);
            }
            touched = known;
        }
        return states;
    }

    BitSet touched() {
        return touched;
    }

    Client client() {
        return client;
    }

    @Override
    public Opened opened() {
        return opened;
    }

    @Override
    public Limits limits() {
        return client.limits();
    }

    @Override
    public Pending<List<RegisteredState>> register(List<StateDescriptor> states, List<SchemaChange> changes) {
        RegisterStatesRequest request = RegisterStatesRequest.newBuilder()
                .setBackend(reference())
                .addAllStates(states)
                .addAllChanges(changes)
                .build();
        return Calls.unary(client.how(), StateBackendServiceGrpc.getRegisterStatesMethod(), request,
                (RegisterStatesResponse answer) -> learn(answer.getStatesList()));
    }

    @Override
    public Pending<Session> session(SessionOptions options) {
        return SessionWorker.start(this, options);
    }

    @Override
    public Pending<Results> apply(Batch batch) {
        batch.seal();
        ApplyBatchRequest request;
        try {
            io.dstl.proto.v1.Batch operations =
                    io.dstl.proto.v1.Batch.parser().parseFrom(batch.bytes(), 0, batch.encodedLength());
            request = ApplyBatchRequest.newBuilder().setBackend(reference()).setBatch(operations).build();
        } catch (InvalidProtocolBufferException impossible) {
            throw new AssertionError("a batch encodes what protobuf reads", impossible);
        }
        return Calls.unary(client.how(), StateBackendServiceGrpc.getApplyBatchMethod(), request,
                answer -> results(answer.getResult()));
    }

    private static Results results(BatchResult result) {
        byte[] bytes = result.toByteArray();
        return new Results(result.getNumber(), new ResultScan(bytes, 0, bytes.length));
    }

    @Override
    public Pending<CheckpointCompleted> checkpoint(Barrier barrier) {
        CheckpointRequest request = CheckpointRequest.newBuilder().setBackend(reference()).setBarrier(barrier).build();
        return Calls.unary(client.how(), StateBackendServiceGrpc.getCheckpointMethod(), request,
                CheckpointResponse::getCheckpoint);
    }

    @Override
    public Pending<NoticeOutcome> notify(NoticeKind kind, CheckpointIdentity checkpoint) {
        NotifyRequest request = NotifyRequest.newBuilder()
                .setBackend(reference())
                .setNotice(Notice.newBuilder().setKind(kind).setCheckpoint(checkpoint))
                .build();
        return Calls.unary(client.how(), StateBackendServiceGrpc.getNotifyMethod(), request,
                NotifyResponse::getOutcome);
    }

    @Override
    public Pending<Long> persist() {
        PersistRequest request = PersistRequest.newBuilder().setBackend(reference()).build();
        return Calls.unary(client.how(), StateBackendServiceGrpc.getPersistMethod(), request,
                PersistResponse::getPersistedTo);
    }

    @Override
    public Pending<Void> pin(CheckpointIdentity checkpoint) {
        PinRequest request = PinRequest.newBuilder().setBackend(reference()).setCheckpoint(checkpoint).build();
        return Calls.unary(client.how(), StateBackendServiceGrpc.getPinMethod(), request, answer -> null);
    }

    @Override
    public Pending<Boolean> release(CheckpointIdentity checkpoint) {
        ReleaseRequest request = ReleaseRequest.newBuilder().setBackend(reference()).setCheckpoint(checkpoint).build();
        return Calls.unary(client.how(), StateBackendServiceGrpc.getReleaseMethod(), request,
                ReleaseResponse::getReleased);
    }

    @Override
    public Pending<MaterializeResponse> materialize() {
        MaterializeRequest request = MaterializeRequest.newBuilder().setBackend(reference()).build();
        return Calls.unary(client.how(), StateBackendServiceGrpc.getMaterializeMethod(), request, answer -> answer);
    }

    @Override
    public Pending<BackendDescription> describe() {
        return client.describe(reference());
    }

    @Override
    public Pending<Boolean> close() {
        CloseRequest request = CloseRequest.newBuilder().setBackend(reference()).build();
        return Calls.unary(client.how(), StateBackendServiceGrpc.getCloseMethod(), request, CloseResponse::getClosed);
    }

    /** For people. */
    @Override
    public String toString() {
        BackendRef backend = reference();
        return backend.getId().getJob() + "/" + backend.getId().getOperator() + "/" + backend.getId().getSubtask()
                + " in epoch " + backend.getEpoch().getNumber();
    }
}
