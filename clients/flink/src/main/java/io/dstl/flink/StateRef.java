package io.dstl.flink;

/** A registered state, as the data path knows it. */
final class StateRef {
    final String name;
    /** Which keys it may have. */
    final AbsentFilter filter;
    /** The daemon's id. Another one only where all entries moved, with the overlay flushed before. */
    int id;

    StateRef(String name, int id, AbsentFilter filter) {
        this.name = name;
        this.id = id;
        this.filter = filter;
    }
}
