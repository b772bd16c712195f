package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.apache.flink.api.common.serialization.SerializerConfigImpl;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.State;
import org.apache.flink.api.common.state.StateDescriptor;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.api.common.typeutils.base.IntSerializer;
import org.apache.flink.formats.avro.typeutils.AvroSerializer;
import org.apache.flink.runtime.state.KeyGroupRangeAssignment;
import org.apache.flink.runtime.state.KeyedStateHandle;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.runtime.state.internal.InternalKvState;
import org.apache.flink.runtime.state.internal.InternalListState;
import org.apache.flink.runtime.state.internal.InternalMapState;
import org.apache.flink.runtime.state.internal.InternalValueState;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Records in state that have other fields when the job starts again. */
class SchemaTest {
    private static final String NAMED = "public String name;";
    private static final String AGED = NAMED + "@org.apache.avro.reflect.AvroDefault(\"7\") public int age = 30;";
    private static final String SETTLED = NAMED + "@org.apache.avro.reflect.AvroDefault(\"8\") public long age;"
            + "@org.apache.avro.reflect.AvroDefault(\"\\\"nowhere\\\"\") public String city;";

    @TempDir
    Path directory;

    @ParameterizedTest
    @EnumSource(value = DstlOptions.Inner.class, names = {"HASHMAP", "ROCKSDB"})
    void records_of_avro_get_new_fields_in_values_lists_and_maps(DstlOptions.Inner inner) throws Exception {
        Class<?> named = compile("named", NAMED);
        Class<?> settled = compile("settled", SETTLED);
        TestTask task = new TestTask(Backends.options(Daemon.shared(), inner));
        task.userCode = named.getClassLoader();
        DstlKeyedStateBackend<Integer> backend = task.open(IntSerializer.INSTANCE);
        People people = new People(backend, named);
        for (int key = 0; key < 300; key++) {
            people.write(key, person(named, key));
        }
        KeyedStateHandle handle = TestTask.complete(backend, 1);
        backend.dispose();

        TestTask again = task.next();
        again.userCode = settled.getClassLoader();
        DstlKeyedStateBackend<Integer> restored = again.open(IntSerializer.INSTANCE, handle);
        People evolved = new People(restored, settled);
        for (int key = 0; key < 300; key++) {
            String expected = "n" + key + " 8 nowhere";
            assertThat(evolved.read(key)).containsExactly(expected, expected, expected, expected);
        }
        KeyedStateHandle next = TestTask.complete(restored, 2);
        restored.dispose();

        DstlKeyedStateBackend<Integer> last = again.next().open(IntSerializer.INSTANCE, next);
        assertThat(new People(last, settled).read(299)).hasSize(4).containsOnly("n299 8 nowhere");
        last.dispose();
    }

    /** Each subtask touches the state in another run, and the daemon must not take what they wrote for one form. */
    @ParameterizedTest
    @EnumSource(value = DstlOptions.Inner.class, names = {"HASHMAP", "ROCKSDB"})
    void subtasks_that_wrote_by_different_schemas_are_united_by_a_rescale(DstlOptions.Inner inner) throws Exception {
        Class<?>[] classes = {compile("named", NAMED), compile("aged", AGED)};
        Class<?> settled = compile("settled", SETTLED);
        TestTask task = new TestTask(Backends.options(Daemon.shared(), inner));
        List<KeyedStateHandle> handles = new ArrayList<>();
        for (int subtask = 0; subtask < 2; subtask++) {
            TestTask one = task.next();
            one.subtask = subtask;
            one.parallelism = 2;
            one.userCode = classes[subtask].getClassLoader();
            DstlKeyedStateBackend<Integer> backend = one.open(IntSerializer.INSTANCE);
            People people = new People(backend, classes[subtask]);
            for (int key = 0; key < 200; key++) {
                if (one.range().contains(KeyGroupRangeAssignment.assignToKeyGroup(key, TestTask.KEY_GROUPS))) {
                    people.write(key, person(classes[subtask], key));
                }
            }
            handles.add(TestTask.complete(backend, 1));
            backend.dispose();
        }

        TestTask both = task.next().next();
        both.userCode = settled.getClassLoader();
        // Nobody touches it in this run, and it is still there in the next one, in both forms.
        DstlKeyedStateBackend<Integer> untouched = both.open(IntSerializer.INSTANCE, handles.toArray(KeyedStateHandle[]::new));
        KeyedStateHandle handle = TestTask.complete(untouched, 2);
        untouched.dispose();
        DstlKeyedStateBackend<Integer> backend = both.next().open(IntSerializer.INSTANCE, handle);
        People people = new People(backend, settled);
        for (int key = 0; key < 200; key++) {
            boolean first = KeyGroupRangeAssignment.assignToKeyGroup(key, TestTask.KEY_GROUPS) < TestTask.KEY_GROUPS / 2;
            String expected = "n" + key + (first ? " 8 nowhere" : " 30 nowhere");
            assertThat(people.read(key)).as("key " + key).hasSize(4).containsOnly(expected);
        }
        backend.dispose();
    }

    @Test
    void records_of_avro_that_cannot_be_read_are_refused() throws Exception {
        TestTask task = new TestTask();
        Class<?> named = compile("named", NAMED);
        task.userCode = named.getClassLoader();
        DstlKeyedStateBackend<Integer> backend = task.open(IntSerializer.INSTANCE);
        new People(backend, named).write(1, person(named, 1));
        KeyedStateHandle handle = TestTask.complete(backend, 1);
        backend.dispose();
        Class<?> other = compile("other", "public int name;");
        TestTask again = task.next();
        again.userCode = other.getClassLoader();
        DstlKeyedStateBackend<Integer> restored = again.open(IntSerializer.INSTANCE, handle);
        assertThatThrownBy(() -> new People(restored, other)).hasMessageContaining("must not be incompatible");
        restored.dispose();
    }

    @Test
    void plain_objects_get_new_fields_and_lose_old_ones() throws Exception {
        TestTask task = new TestTask();
        Class<?> before = compile("before", "public String name; public int age; public long gone;");
        task.userCode = before.getClassLoader();
        DstlKeyedStateBackend<Integer> backend = task.open(IntSerializer.INSTANCE);
        InternalValueState<Integer, VoidNamespace, Object> state = objects(backend, before);
        for (int key = 0; key < 100; key++) {
            Object object = before.getConstructor().newInstance();
            before.getField("name").set(object, "n" + key);
            before.getField("age").set(object, key);
            backend.setCurrentKey(key);
            state.update(object);
        }
        KeyedStateHandle handle = TestTask.complete(backend, 1);
        backend.dispose();

        TestTask again = task.next();
        Class<?> after = compile("after", "public int age; public String city; public String name;");
        again.userCode = after.getClassLoader();
        DstlKeyedStateBackend<Integer> restored = again.open(IntSerializer.INSTANCE, handle);
        InternalValueState<Integer, VoidNamespace, Object> evolved = objects(restored, after);
        for (int key = 0; key < 100; key++) {
            restored.setCurrentKey(key);
            Object object = evolved.value();
            assertThat(after.getField("name").get(object)).isEqualTo("n" + key);
            assertThat(after.getField("age").get(object)).isEqualTo(key);
            assertThat(after.getField("city").get(object)).isNull();
        }
        restored.dispose();
    }

    private static Object person(Class<?> type, int key) throws Exception {
        Object person = type.getConstructor().newInstance();
        type.getField("name").set(person, "n" + key);
        return person;
    }

    /** States of all kinds with the records of one class. */
    private static final class People {
        private final DstlKeyedStateBackend<Integer> backend;
        private final InternalValueState<Integer, VoidNamespace, Object> value;
        private final InternalListState<Integer, VoidNamespace, Object> list;
        private final InternalMapState<Integer, VoidNamespace, Integer, Object> map;

        @SuppressWarnings("unchecked")
        People(DstlKeyedStateBackend<Integer> backend, Class<?> type) throws Exception {
            TypeSerializer<Object> records = new AvroSerializer<>((Class<Object>) type);
            this.backend = backend;
            value = state(backend, new ValueStateDescriptor<>("value", records));
            list = state(backend, new ListStateDescriptor<>("list", records));
            map = state(backend, new MapStateDescriptor<>("map", IntSerializer.INSTANCE, records));
        }

        void write(int key, Object record) throws Exception {
            backend.setCurrentKey(key);
            value.update(record);
            list.addAll(List.of(record, record));
            map.put(1, record);
            map.put(2, null);
        }

        List<String> read(int key) throws Exception {
            backend.setCurrentKey(key);
            List<String> all = new ArrayList<>();
            all.add(text(value.value()));
            for (Object person : list.get()) {
                all.add(text(person));
            }
            all.add(text(map.get(1)));
            assertThat(map.contains(2)).isTrue();
            assertThat(map.get(2)).isNull();
            return all;
        }

        private static String text(Object person) throws Exception {
            Class<?> type = person.getClass();
            return type.getField("name").get(person) + " " + type.getField("age").get(person) + " " + type.getField("city").get(person);
        }
    }

    @SuppressWarnings("unchecked")
    private static <S extends State, T extends InternalKvState<Integer, VoidNamespace, ?>> T state(
            DstlKeyedStateBackend<Integer> backend, StateDescriptor<S, ?> descriptor) throws Exception {
        T state = (T) (Object) backend.getOrCreateKeyedState(VoidNamespaceSerializer.INSTANCE, descriptor);
        state.setCurrentNamespace(VoidNamespace.INSTANCE);
        return state;
    }

    @SuppressWarnings("unchecked")
    private static InternalValueState<Integer, VoidNamespace, Object> objects(DstlKeyedStateBackend<Integer> backend, Class<?> of)
            throws Exception {
        TypeInformation<Object> type = (TypeInformation<Object>) TypeInformation.of(of);
        return state(backend, new ValueStateDescriptor<>("object", type.createSerializer(new SerializerConfigImpl())));
    }

    /** The class `Person` with these fields, in a class loader of its own. */
    private Class<?> compile(String name, String fields) throws Exception {
        return CompiledClass.of("Person", fields, directory.resolve(name)).load();
    }
}
