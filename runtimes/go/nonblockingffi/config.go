package nonblockingffi

import (
	"fmt"
	"strconv"
	"strings"
)

// fields reads the configuration of language = "go": "key:length:value\n" for
// each field, the length in bytes, the value without NUL bytes.
func fields(config string) (map[string]string, error) {
	found := make(map[string]string)
	for rest := config; rest != ""; {
		key, tail, ok := strings.Cut(rest, ":")
		number, tail, more := strings.Cut(tail, ":")
		length, err := strconv.ParseUint(number, 10, 31)
		if !ok || !more || err != nil || uint64(len(tail)) <= length ||
			tail[length] != '\n' {
			return nil, fmt.Errorf("the configuration is not one of "+
				"language = \"go\": at byte %d", len(config)-len(rest))
		}
		found[key] = tail[:length]
		rest = tail[length+1:]
	}
	return found, nil
}
