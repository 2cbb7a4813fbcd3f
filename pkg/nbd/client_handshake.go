package nbd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"ashlar.dev/pkg/errs"
)

// The limits of what a server may send during the handshake.
const (
	optionReplyBytesMax = 64 << 10
	optionRepliesMax    = 1 << 20 // of one option
)

// OptionError is a server's refusal of an option of the handshake.
type OptionError struct {
	Option uint32
	Reply  uint32
	Text   string
}

var optReplyTexts = map[optReply]string{
	repErrUnsup: "not supported", repErrPolicy: "not allowed", repErrInvalid: "invalid", repErrPlatform: "not supported on its platform",
	repErrTLSRequired: "TLS required", repErrUnknown: "unknown export", repErrShutdown: "shutting down",
	repErrBlockSizeRequired: "block sizes required", repErrTooBig: "too big", repErrExtHeaderRequired: "extended headers required",
}

func (e *OptionError) Error() string {
	text := optReplyTexts[optReply(e.Reply)]
	if text == "" {
		text = fmt.Sprintf("reply %#x", e.Reply)
	}
	if e.Text != "" {
		text += ": " + e.Text
	}
	return fmt.Sprintf("option %d refused: %s", e.Option, text)
}

// Is makes the error match the class it stands for.
func (e *OptionError) Is(target error) bool {
	switch optReply(e.Reply) {
	case repErrUnknown:
		return target == errs.ErrNotFound
	case repErrPolicy:
		return target == errs.ErrDenied
	case repErrShutdown:
		return target == errs.ErrClosed
	case repErrInvalid, repErrTooBig:
		return target == errs.ErrInvalid
	case repErrTLSRequired:
		return target == ErrTLSRequired
	}
	return false
}

// handshake greets the server over raw, starts TLS where wanted, and runs then. It closes raw on an error.
func handshake(ctx context.Context, raw net.Conn, withTLS bool, o ClientOptions, then func(*Client) error) (*Client, error) {
	c := &Client{raw: raw, stream: raw, reads: &dryReader{conn: raw}}
	c.in = input{src: c.reads, buf: make([]byte, bufferLenFirst)}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	err := c.greet(o)
	if err == nil && withTLS {
		err = c.startTLS(ctx, o.TLS)
	}
	if err == nil {
		err = then(c)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = raw.Close() // the error says more
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return nil, err
	}
	return c, nil
}

func (c *Client) greet(o ClientOptions) error {
	b, err := c.in.take(18)
	if err != nil {
		return fmt.Errorf("read the greeting: %w", unexpected(err))
	}
	if be.Uint64(b) != magicInit || be.Uint64(b[8:]) != magicOption {
		if be.Uint64(b[8:]) == magicOldstyle {
			return fmt.Errorf("the server speaks oldstyle only: %w", ErrProtocol)
		}
		return fmt.Errorf("not an nbd server: %w", ErrProtocol)
	}
	flags := be.Uint16(b[16:])
	if flags&handshakeFixed == 0 && !o.ExportName {
		return fmt.Errorf("the server does not speak fixed newstyle: %w", ErrProtocol)
	}
	flags &= handshakeFixed | handshakeNoZeroes
	c.padded = flags&handshakeNoZeroes == 0
	_, err = c.stream.Write(be.AppendUint32(nil, uint32(flags)))
	return err
}

func (c *Client) startTLS(ctx context.Context, config *tls.Config) error {
	if config == nil {
		config = &tls.Config{}
	}
	config = config.Clone()
	config.DynamicRecordSizingDisabled = true
	if err := c.simpleOption(optStartTLS, nil); err != nil {
		return err
	}
	if c.in.buffered() > 0 {
		return fmt.Errorf("data before the TLS handshake: %w", ErrProtocol)
	}
	c.wire = newTLSWire(c.raw, c.reads)
	conn := tls.Client(c.wire, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	c.tls, c.stream, c.in.src = conn, conn, conn
	return nil
}

// send writes one option.
func (c *Client) send(opt option, data []byte) error {
	b := be.AppendUint64(nil, magicOption)
	b = be.AppendUint32(b, uint32(opt))
	b = be.AppendUint32(b, uint32(len(data)))
	_, err := c.stream.Write(append(b, data...))
	return err
}

// receiveReply reads one reply to opt; an error reply is an *OptionError.
func (c *Client) receiveReply(opt option) (optReply, []byte, error) {
	b, err := c.in.take(optionReplyLen)
	if err != nil {
		return 0, nil, unexpected(err)
	}
	magic, to, kind, length := be.Uint64(b), option(be.Uint32(b[8:])), optReply(be.Uint32(b[12:])), be.Uint32(b[16:])
	if magic != magicOptReply || to != opt || length > optionReplyBytesMax {
		return 0, nil, fmt.Errorf("reply to option %d: magic %#x, option %d, %d bytes: %w", opt, magic, to, length, ErrProtocol)
	}
	data := make([]byte, length)
	if err := c.in.full(data); err != nil {
		return 0, nil, err
	}
	if kind.isError() {
		text := strings.ToValidUTF8(string(data[:min(len(data), stringMax)]), "?")
		return kind, nil, &OptionError{uint32(opt), uint32(kind), text}
	}
	return kind, data, nil
}

// converse sends an option and hands every reply before the last to each.
func (c *Client) converse(opt option, data []byte, each func(kind optReply, data []byte) error) error {
	if err := c.send(opt, data); err != nil {
		return err
	}
	for range optionRepliesMax {
		kind, data, err := c.receiveReply(opt)
		if err != nil {
			return err
		}
		if kind == repAck {
			return nil
		}
		if each == nil {
			return fmt.Errorf("reply %d to option %d: %w", kind, opt, ErrProtocol)
		}
		if err := each(kind, data); err != nil {
			return err
		}
	}
	return fmt.Errorf("more than %d replies: %w", optionRepliesMax, ErrProtocol)
}

func (c *Client) simpleOption(opt option, data []byte) error { return c.converse(opt, data, nil) }

// offered sends an option that the server may refuse.
func (c *Client) offered(opt option, data []byte, each func(optReply, []byte) error) (bool, error) {
	err := c.converse(opt, data, each)
	var refused *OptionError
	if errors.As(err, &refused) {
		return false, nil
	}
	return err == nil, err
}

func (c *Client) list() (names []ExportName, err error) {
	err = c.converse(optList, nil, func(kind optReply, data []byte) error {
		p := fields{data}
		name := p.text()
		if kind != repServer || !p.ok() || len(name) > stringMax {
			return fmt.Errorf("reply %d to the list option: %w", kind, ErrProtocol)
		}
		names = append(names, ExportName{string(name), string(p.b)})
		return nil
	})
	return names, err
}

// abort takes leave of the server during the handshake. It may hang up without an answer.
func (c *Client) abort() error {
	_ = c.simpleOption(optAbort, nil)
	return nil
}

// enter agrees on headers and contexts and opens the export.
func (c *Client) enter(export string, o ClientOptions) (err error) {
	if len(export) > stringMax {
		return fmt.Errorf("export name of %d bytes: %w", len(export), errs.ErrInvalid)
	}
	ok := false
	if !o.NoExtended && !o.NoStructured && !o.ExportName {
		if ok, err = c.offered(optExtendedHeaders, nil, nil); err != nil {
			return err
		} else if ok {
			c.mode = headersExtended
		}
	}
	if !ok && !o.NoStructured {
		if ok, err = c.offered(optStructuredReply, nil, nil); err != nil {
			return err
		} else if ok {
			c.mode = headersStructured
		}
	}
	if c.mode != headersSimple && !o.NoMeta {
		if err := c.setMeta(export, cmp.Or(o.Context, metaAllocation)); err != nil {
			return err
		}
	}
	if o.Context != "" && !c.meta {
		return fmt.Errorf("the server has no meta context %.200q of the export: %w", o.Context, errs.ErrNotFound)
	}
	if o.ExportName {
		return c.enterOld(export)
	}
	return c.goOption(export)
}

func (c *Client) setMeta(export, name string) error {
	b := be.AppendUint32(nil, uint32(len(export)))
	b = append(b, export...)
	b = be.AppendUint32(b, 1)
	b = be.AppendUint32(b, uint32(len(name)))
	b = append(b, name...)
	found := false
	ok, err := c.offered(optSetMeta, b, func(kind optReply, data []byte) error {
		if kind != repMeta || len(data) < 4 {
			return fmt.Errorf("reply %d to the meta context option: %w", kind, ErrProtocol)
		}
		if string(data[4:]) == name {
			c.metaID, found = be.Uint32(data), true
		}
		return nil
	})
	c.meta = ok && found
	return err
}

func (c *Client) goOption(export string) error {
	b := be.AppendUint32(nil, uint32(len(export)))
	b = append(b, export...)
	b = be.AppendUint16(b, 3)
	for _, info := range []uint16{infoBlockSize, infoName, infoDescription} {
		b = be.AppendUint16(b, info)
	}
	known := false
	err := c.converse(optGo, b, func(kind optReply, data []byte) error {
		p := fields{data}
		what := p.uint16()
		if kind != repInfo || !p.ok() {
			return fmt.Errorf("reply %d to the go option: %w", kind, ErrProtocol)
		}
		known = known || what == infoExport
		return c.learn(what, p.b)
	})
	if err == nil && !known {
		err = fmt.Errorf("the server said nothing of the export: %w", ErrProtocol)
	}
	return err
}

// learn takes one info of the export.
func (c *Client) learn(what uint16, b []byte) error {
	switch {
	case what == infoExport && len(b) == 10:
		c.setExport(be.Uint64(b), TransmissionFlags(be.Uint16(b[8:])))
	case what == infoBlockSize && len(b) == 12:
		c.info.BlockMin, c.info.BlockPreferred, c.info.PayloadMax = be.Uint32(b), be.Uint32(b[4:]), be.Uint32(b[8:])
		if m := c.info.BlockMin; m == 0 || m&(m-1) != 0 || m > 64<<10 {
			return fmt.Errorf("minimum block size %d: %w", m, ErrProtocol)
		}
		c.info = c.info.withDefaults()
	case what == infoName:
		c.info.Name = string(b)
	case what == infoDescription:
		c.info.Description = string(b)
	case what == infoExport || what == infoBlockSize:
		return fmt.Errorf("info %d of %d bytes: %w", what, len(b), ErrProtocol)
	}
	return nil
}

func (c *Client) setExport(size uint64, flags TransmissionFlags) {
	c.size, c.flags = size, flags
	c.info.ReadOnly = flags&ReadOnly != 0
	c.info.MultiConn = flags&CanMultiConn != 0
	c.info.Rotational = flags&Rotational != 0
}

func (c *Client) enterOld(export string) error {
	if err := c.send(optExportName, []byte(export)); err != nil {
		return err
	}
	n := 10
	if c.padded {
		n += 124
	}
	b, err := c.in.take(n)
	if err != nil {
		return fmt.Errorf("the server refused the export: %w", unexpected(err))
	}
	c.setExport(be.Uint64(b), TransmissionFlags(be.Uint16(b[8:])))
	return nil
}
