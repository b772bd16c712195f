/** Flink as a peer of dstl. */
package io.dstl.peers;
