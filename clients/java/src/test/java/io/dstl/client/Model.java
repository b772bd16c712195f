package io.dstl.client;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.NavigableMap;
import java.util.TreeMap;
import java.util.TreeSet;

/** What a backend should contain: every kind of keyed state, in plain collections, by "key/namespace". */
final class Model {
    final Map<String, Long> values = new TreeMap<>();
    final Map<String, Long> sums = new TreeMap<>();
    final Map<String, List<Long>> lists = new TreeMap<>();
    final Map<String, NavigableMap<Long, Long>> maps = new TreeMap<>();
    final Map<String, NavigableMap<Long, Long>> counts = new TreeMap<>();
    /** "time/key/namespace", the time so that its order is that of the text. */
    final TreeSet<String> timers = new TreeSet<>();

    Model copy() {
        Model copy = new Model();
        copy.values.putAll(values);
        copy.sums.putAll(sums);
        lists.forEach((name, list) -> copy.lists.put(name, new ArrayList<>(list)));
        maps.forEach((name, map) -> copy.maps.put(name, new TreeMap<>(map)));
        counts.forEach((name, map) -> copy.counts.put(name, new TreeMap<>(map)));
        copy.timers.addAll(timers);
        return copy;
    }

    List<Long> list(String name) {
        return lists.computeIfAbsent(name, absent -> new ArrayList<>());
    }

    static NavigableMap<Long, Long> map(Map<String, NavigableMap<Long, Long>> of, String name) {
        return of.computeIfAbsent(name, absent -> new TreeMap<>());
    }

    void mergeNamespaces(String key, String target, List<String> sources) {
        for (String source : sources) {
            String from = key + "/" + source;
            String to = key + "/" + target;
            Long value = values.remove(from);
            if (value != null) {
                values.putIfAbsent(to, value);
            }
            Long sum = sums.remove(from);
            if (sum != null) {
                sums.merge(to, sum, Long::sum);
            }
            List<Long> list = lists.remove(from);
            if (list != null) {
                list(to).addAll(list);
            }
            NavigableMap<Long, Long> map = maps.remove(from);
            if (map != null) {
                // Without a function the last one remains.
                map(maps, to).putAll(map);
            }
            NavigableMap<Long, Long> count = counts.remove(from);
            if (count != null) {
                count.forEach((entry, number) -> map(counts, to).merge(entry, number, Long::sum));
            }
        }
    }

    void clear(String name) {
        values.remove(name);
        sums.remove(name);
        lists.remove(name);
        maps.remove(name);
        counts.remove(name);
    }

    /** Timers up to a time, in order. */
    List<String> due(long upTo) {
        return new ArrayList<>(timers.headSet(time(upTo + 1)));
    }

    static String time(long time) {
        return String.format("%06d", time);
    }

    static String timer(long time, String key, String namespace) {
        return time(time) + "/" + key + "/" + namespace;
    }
}
