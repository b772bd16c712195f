"""A Kafka broker without Kafka: librdkafka, which comes with confluent-kafka, has one for tests that runs in this process.

It keeps messages in memory, and knows topics, consumer groups and transactions, but no administration: topics are made by calls of
librdkafka, and their settings are remembered here.
"""

import concurrent.futures
import ctypes
import pathlib

import confluent_kafka
from confluent_kafka import admin


def _library():
    packages = pathlib.Path(confluent_kafka.__file__).parents[1]
    (path,) = packages.glob("confluent_kafka.libs/librdkafka-*.so*")
    library = ctypes.CDLL(str(path))
    for name, result, arguments in (
        ("rd_kafka_conf_new", ctypes.c_void_p, []),
        ("rd_kafka_new", ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]),
        ("rd_kafka_mock_cluster_new", ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int]),
        ("rd_kafka_mock_cluster_bootstraps", ctypes.c_char_p, [ctypes.c_void_p]),
        ("rd_kafka_mock_topic_create", ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Broker:
    """One broker; it lives as long as the process."""

    def __init__(self):
        self._library = library = _library()
        text = ctypes.create_string_buffer(512)
        handle = library.rd_kafka_new(0, library.rd_kafka_conf_new(), text, len(text))
        self._cluster = library.rd_kafka_mock_cluster_new(handle, 1)
        self.address = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        self._settings = {}

    def create_topic(self, name, partitions=1, settings=None):
        """Makes a topic."""
        if self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), max(partitions, 1), 1) != 0:
            raise RuntimeError(f"topic `{name}` is not made")
        self._settings[name] = {"cleanup.policy": "delete", "retention.ms": "604800000", "retention.bytes": "-1", **(settings or {})}

    def serve_administration(self):
        """Lets `AdminClient` make and describe topics."""
        broker = self

        def create_topics(client, topics, **_):
            made = {}
            for topic in topics:
                made[topic.topic] = future = concurrent.futures.Future()
                try:
                    broker.create_topic(topic.topic, topic.num_partitions, topic.config)
                    future.set_result(None)
                except Exception as error:
                    future.set_exception(error)
            return made

        def describe_configs(client, resources, **_):
            described = {}
            for resource in resources:
                described[resource] = future = concurrent.futures.Future()
                settings = broker._settings.get(resource.name, {})
                future.set_result({key: admin.ConfigEntry(key, str(value)) for key, value in settings.items()})
            return described

        admin.AdminClient.create_topics, admin.AdminClient.describe_configs = create_topics, describe_configs
