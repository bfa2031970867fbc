// Markdown into HTML, with the library goldmark: one document, or many at the
// same time.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"runtime"

	"github.com/lua-resty-nonblocking-ffi/lua-resty-nonblocking-ffi/runtimes/go/nonblockingffi"
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"
	"golang.org/x/sync/errgroup"
)

const badRequest = 400

// converter may be used by many goroutines at a time. It leaves out raw HTML, so
// that documents may come from strangers.
var converter = goldmark.New(goldmark.WithExtensions(extension.GFM))

// page converts one document.
func page(_ context.Context, request []byte) ([]byte, error) {
	var html bytes.Buffer
	if err := converter.Convert(request, &html); err != nil {
		return nil, err
	}
	return html.Bytes(), nil
}

// pages converts a JSON array of documents into one of HTML, in as many
// goroutines as there are cores. It stops between two documents if nobody waits
// for the answer any more.
func pages(ctx context.Context, request []byte) ([]byte, error) {
	var documents []string
	if err := json.Unmarshal(request, &documents); err != nil {
		return nil, nonblockingffi.Errorf(badRequest, "an array of strings expected: %w", err)
	}
	htmls := make([]string, len(documents))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range documents {
		i := i
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			html, err := page(ctx, []byte(documents[i]))
			htmls[i] = string(html)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var response bytes.Buffer
	encoder := json.NewEncoder(&response)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(htmls)
	return response.Bytes(), err
}

func init() {
	nonblockingffi.Register("page", page, nonblockingffi.ZeroCopy)
	nonblockingffi.Register("pages", pages, nonblockingffi.ZeroCopy)
}

func main() {}
