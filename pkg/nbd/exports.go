package nbd

import (
	"context"
	"crypto/x509"
	"net"
)

// Exports is what a server serves: the consumer's names and their devices.
// Its methods are safe for concurrent use.
type Exports interface {
	// Open gives the device of the named export for one connection. It is called once a
	// connection, when the client asks for the export, and may take its time: the client waits
	// until ctx ends. The empty name is the default export, where there is one.
	//
	// Errors: errs.ErrNotFound, errs.ErrDenied, ErrTLSRequired (the export wants TLS and
	// peer has none), errs.ErrClosed (shutting down); any other is "not available now".
	Open(ctx context.Context, name string, peer Peer) (Handle, error)
	// List names the exports that peer may see.
	List(ctx context.Context, peer Peer) ([]ExportName, error)
}

// Describer is for Exports that can tell of an export without opening it. The server
// then asks it, where a client only looks (INFO, meta contexts), and Open is for real use alone.
// Errors are those of Open.
type Describer interface {
	Describe(ctx context.Context, name string, peer Peer) (size uint64, info Info, err error)
}

// Handle is a device as one connection has it.
type Handle interface {
	Device
	// Close ends the connection's use, after all its requests completed. It is called once.
	Close() error
}

// ExportName is one line of a list of exports.
type ExportName struct {
	Name        string
	Description string // may be empty
}

// Peer is who is at the other end of a connection.
type Peer struct {
	// Conn is the connection's number, never reused by a server.
	Conn uint64
	// Addr is the peer's address.
	Addr net.Addr
	// TLS tells whether the connection is encrypted.
	TLS bool
	// Certificate is the peer's verified certificate; nil without TLS or without a client certificate.
	Certificate *x509.Certificate
	// Process is who connected to a unix socket, as the kernel says; nil elsewhere.
	Process *Process
	// HungUp tells whether the peer has closed its end or the connection is gone, though not
	// all that it sent before may have been read. Nil where nobody can tell.
	HungUp func() bool
}

// Process is the other end of a unix socket at the time it connected.
type Process struct {
	PID      int32
	UID, GID uint32
}

// Shared makes a Handle of a device that many connections use: its Close does nothing.
func Shared(d Device) Handle {
	if c, ok := d.(Corker); ok {
		return sharedCorker{shared{d}, c}
	}
	return shared{d}
}

type shared struct{ Device }

func (shared) Close() error { return nil }

type sharedCorker struct {
	shared
	Corker
}
