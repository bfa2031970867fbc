#!/bin/sh
# build.sh [runtime] [examples] [tests]     all of them by default
#
# Builds what is in Java, or needs it: the runtime's shared object and the jar of the
# API; the examples; the classes that t/ and tests/ load. Without a JDK it says so
# and builds nothing, which is no failure.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
target=${CARGO_TARGET_DIR:-target}
api=runtimes/java/api/src/main/java
pdfbox="/usr/share/java/pdfbox2.jar:/usr/share/java/fontbox2.jar:/usr/share/java/commons-logging.jar"

javac=
for found in ${JAVAC:+"$JAVAC"} ${JAVA_HOME:+"$JAVA_HOME/bin/javac"} \
        "$(command -v javac || true)" /usr/lib/jvm/*/bin/javac; do
    version=$("$found" -version 2>&1 | sed -n 's/^javac \([0-9]*\).*/\1/p') || true
    if [ "${version:-0}" -ge 17 ]; then
        javac=$found
        break
    fi
done
if [ -z "$javac" ]; then
    echo "Java: left out, as there is no JDK 17 or later (Debian: openjdk-17-jdk-headless)"
    exit 0
fi

# compile CLASS_PATH FOLDER SOURCE...: puts the classes into the folder.
compile() {
    class_path=$1 folder=$2
    shift 2
    rm -rf "$folder.new"
    mkdir -p "$folder.new"
    "$javac" --release 17 -proc:none -g -encoding UTF-8 -Xlint:all,-path -Werror \
        -cp "$class_path" -d "$folder.new" "$@"
    rm -rf "$folder"
    mv "$folder.new" "$folder"
}

# pack FOLDER JAR: puts a jar in place by renaming, as a JVM may have the old one
# open.
pack() {
    mkdir -p "$(dirname "$2")"
    "$(dirname "$javac")/jar" --create --file "$2.new" -C "$1" .
    mv -f "$2.new" "$2"
}

build_api() {
    compile "" "$target/java/api" $(find $api -name '*.java')
    pack "$target/java/api" "$target/java/nonblocking-ffi-api.jar"
}

build_runtime() {
    "${CARGO:-cargo}" build --release --locked -p nonblocking-ffi-java
}

build_tests() {
    tests=$target/test-plugins/java
    mkdir -p "$tests"
    compile "$target/java/api" "$tests/verbs" t/plugins/java/verbs/*.java
    pack "$tests/verbs" "$tests/verbs.jar"
    compile "$target/java/api" "$tests/faults" tests/java/*.java
    compile "" "$tests/jdbc" t/plugins/java/jdbc/*.java
    mkdir -p "$tests/jdbc/META-INF/services"
    echo jdbc.TestDriver > "$tests/jdbc/META-INF/services/java.sql.Driver"
    echo jdbc.Greeter\$Polite > "$tests/jdbc/META-INF/services/jdbc.Greeter"
    for version in v1 v2; do
        compile "" "$tests/$version" t/plugins/java/$version/*.java
    done
}

build_examples() {
    mkdir -p "$target/examples"
    compile "$target/java/api" "$target/java/template" examples/java/template/*.java
    pack "$target/java/template" "$target/examples/template.jar"
    compile "" "$target/java/demo" examples/demo/Gzip.java
    if [ -e "${pdfbox%%:*}" ]; then
        compile "$target/java/api:$pdfbox" "$target/java/pdftext" \
            $(find examples/java/pdftext/src -name '*.java')
        pack "$target/java/pdftext" "$target/examples/pdftext.jar"
    else
        echo "Java: the example pdftext is left out, as there is no PDFBox (Debian: libpdfbox2-java)"
    fi
}

if [ $# -eq 0 ]; then
    set -- runtime examples tests
fi
build_api
for part in "$@"; do
    case $part in
        runtime | examples | tests) "build_$part" ;;
        *) echo "build.sh: no such part: $part" >&2; exit 2 ;;
    esac
done
