// Echo in Go, as the plugin's rival behind a unix socket: a goroutine with
// blocking reads for each connection.
//
//	server /path/of/socket
//
// A message is its length, 4 bytes with the highest first, and its bytes; the
// answer has the same form, as that of bench/src/echo_server.rs.
package main

import (
	"encoding/binary"
	"log"
	"net"
	"os"
)

const (
	headBytes = 4
	// Room for many small messages, and for a large one after one more growth.
	bufferBytes = 16 * 1024
)

func main() {
	path := os.Args[1]
	listener, err := net.Listen("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.Chmod(path, 0o777); err != nil {
		log.Fatal(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(connection)
	}
}

// serve answers until the connection ends, in whatever way.
func serve(connection net.Conn) {
	defer connection.Close()
	buffer, filled := make([]byte, bufferBytes), 0
	for {
		count, err := connection.Read(buffer[filled:])
		if err != nil {
			return
		}
		filled += count
		begin := 0
		for end := messageEnd(buffer[:filled], begin); end > 0 && end <= filled; {
			if _, err := connection.Write(buffer[begin:end]); err != nil {
				return
			}
			begin, end = end, messageEnd(buffer[:filled], end)
		}
		filled = copy(buffer, buffer[begin:filled])
		if needed := messageEnd(buffer[:filled], 0); needed > len(buffer) {
			buffer = append(buffer[:filled], make([]byte, needed-filled)...)
		}
	}
}

// messageEnd is where the message ends that begins there, or 0 if its head is
// not whole.
func messageEnd(bytes []byte, begin int) int {
	if len(bytes) < begin+headBytes {
		return 0
	}
	return begin + headBytes + int(binary.BigEndian.Uint32(bytes[begin:]))
}
