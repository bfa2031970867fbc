package nonblockingffi

import (
	"errors"
	"fmt"
)

const (
	// codeOfError is the code of an error that was given none.
	codeOfError = 1
	// codeOfPanic is the code of a panic.
	codeOfPanic = -1
)

// coded is an error with a code.
type coded struct {
	code int64
	err  error
}

func (c *coded) Error() string { return c.err.Error() }

func (c *coded) Unwrap() error { return c.err }

// Code returns the code that [WithCode] was given.
func (c *coded) Code() int64 { return c.code }

// WithCode gives an error a code, for the Lua side to act on: it is the third
// result of a call. Errors without one have the code 1, panics -1. Any error
// with a method Code() int64 has a code, also if it is wrapped.
func WithCode(code int64, err error) error {
	return &coded{code, err}
}

// Errorf makes an error with a code; format and arguments are fmt.Errorf's.
func Errorf(code int64, format string, args ...any) error {
	return &coded{code, fmt.Errorf(format, args...)}
}

// codeOf returns the code of an error.
func codeOf(err error) int64 {
	var with interface{ Code() int64 }
	if errors.As(err, &with) {
		return with.Code()
	}
	return codeOfError
}
