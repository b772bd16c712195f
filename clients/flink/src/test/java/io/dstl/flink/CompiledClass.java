package io.dstl.flink;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.io.OutputStream;
import java.net.URI;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.jar.JarEntry;
import java.util.jar.JarOutputStream;
import javax.tools.JavaFileObject;
import javax.tools.SimpleJavaFileObject;
import javax.tools.ToolProvider;

/** One version of a class with public fields, which a test compiles: the next version has the same name and other fields. */
public final class CompiledClass {
    private final String name;
    private final Path folder;

    private CompiledClass(String name, Path folder) {
        this.name = name;
        this.folder = folder;
    }

    /** Compiles the class {@code name} with {@code fields} into {@code folder}. */
    public static CompiledClass of(String name, String fields, Path folder) throws IOException {
        Files.createDirectories(folder);
        JavaFileObject source = new SimpleJavaFileObject(URI.create("string:///" + name + ".java"), JavaFileObject.Kind.SOURCE) {
            @Override
            public CharSequence getCharContent(boolean ignoreEncodingErrors) {
                return "public class " + name + " { public " + name + "() {} " + fields + " }";
            }
        };
        List<String> options = List.of("-d", folder.toString(), "-cp", System.getProperty("java.class.path"));
        assertThat(ToolProvider.getSystemJavaCompiler().getTask(null, null, null, options, null, List.of(source)).call()).isTrue();
        return new CompiledClass(name, folder);
    }

    /** The class, in a class loader of its own. */
    public Class<?> load() throws Exception {
        URL[] folders = {folder.toUri().toURL()};
        return new URLClassLoader(folders, CompiledClass.class.getClassLoader()).loadClass(name);
    }

    /** A jar with the classes, to be the user code of a job. */
    public static Path jar(Path file, CompiledClass... classes) throws IOException {
        try (OutputStream bytes = Files.newOutputStream(file); JarOutputStream jar = new JarOutputStream(bytes)) {
            for (CompiledClass each : classes) {
                jar.putNextEntry(new JarEntry(each.name + ".class"));
                Files.copy(each.folder.resolve(each.name + ".class"), jar);
                jar.closeEntry();
            }
        }
        return file;
    }
}
