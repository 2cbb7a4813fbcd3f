package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"ashlar.dev/pkg/errs"
)

// The limits of a handshake, beside its deadline.
const (
	optionBytesMax = 64 << 10 // data of one option that is understood
	optionSkipMax  = 1 << 20  // data of one option that is dropped
	optionsMax     = 4096     // options of one handshake
	queriesMax     = 128      // meta context queries of one option
	infosMax       = 1024     // info requests of one option
)

// negotiate runs the handshake. ready tells that the transmission begins. A nil error without
// that is an orderly end.
func (c *conn) negotiate(ctx context.Context) (ready bool, err error) {
	c.expires = c.server.clock.Wall().Add(c.server.cfg.Limits.HandshakeTimeout)
	c.in = input{src: c.reads, buf: make([]byte, bufferLenFirst)}
	c.rearm()
	greeting := be.AppendUint64(nil, magicInit)
	greeting = be.AppendUint64(greeting, magicOption)
	greeting = be.AppendUint16(greeting, handshakeFixed|handshakeNoZeroes)
	if _, err := c.stream.Write(greeting); err != nil {
		return false, fmt.Errorf("greet: %w", err)
	}
	b, err := c.in.take(4)
	if err != nil {
		return false, err
	}
	flags := be.Uint32(b)
	if flags&^uint32(handshakeFixed|handshakeNoZeroes) != 0 {
		return false, fmt.Errorf("unknown client flags %#x: %w", flags, ErrProtocol)
	}
	c.fixed = flags&uint32(handshakeFixed) != 0
	c.noZeroes = flags&uint32(handshakeNoZeroes) != 0
	for range optionsMax {
		ready, over, err := c.option(ctx)
		if err == nil {
			err = c.sendOptions()
		}
		if ready && err == nil {
			c.lift()
		}
		if ready || over || err != nil {
			return ready && err == nil, err
		}
	}
	return false, fmt.Errorf("more than %d options: %w", optionsMax, ErrProtocol)
}

// rearm bounds reads and writes to what is left of the handshake's time.
func (c *conn) rearm() {
	c.readWithin(c.expires.Sub(c.server.clock.Wall()))
	_ = c.raw.SetWriteDeadline(c.expires) // a failure shows at the write
}

// lift ends the bound of the handshake.
func (c *conn) lift() {
	c.readWithin(0)
	_ = c.raw.SetWriteDeadline(time.Time{})
}

// option reads one option and answers it into c.options.
func (c *conn) option(ctx context.Context) (ready, over bool, err error) {
	b, err := c.in.take(optionLen)
	if err != nil {
		return false, false, err
	}
	magic, opt, length := be.Uint64(b), option(be.Uint32(b[8:])), be.Uint32(b[12:])
	if magic != magicOption {
		return false, false, fmt.Errorf("magic %#x of an option: %w", magic, ErrProtocol)
	}
	if !c.fixed && opt != optExportName {
		return false, false, fmt.Errorf("option %d without fixed newstyle: %w", opt, ErrProtocol)
	}
	if length > optionBytesMax {
		if length > optionSkipMax || opt == optExportName {
			return false, false, fmt.Errorf("option %d of %d bytes: %w", opt, length, ErrProtocol)
		}
		if err := c.in.skip(uint64(length)); err != nil {
			return false, false, err
		}
		c.reply(opt, repErrTooBig, "option too long")
		return false, false, nil
	}
	data := make([]byte, length)
	if err := c.in.full(data); err != nil {
		return false, false, err
	}
	if c.tlsRequired && c.tls == nil && opt != optStartTLS && opt != optAbort {
		if opt == optExportName {
			return false, false, errors.New("an export was asked for without TLS")
		}
		c.reply(opt, repErrTLSRequired, "TLS is required here")
		return false, false, nil
	}
	return c.dispatch(ctx, opt, data)
}

func (c *conn) dispatch(ctx context.Context, opt option, data []byte) (ready, over bool, err error) {
	if c.draining.Load() && opt != optAbort && opt != optExportName {
		c.reply(opt, repErrShutdown, "shutting down")
		return false, false, nil
	}
	switch opt {
	case optAbort:
		c.reply(opt, repAck, "")
		return false, true, nil
	case optExportName:
		ready, err = c.exportName(data)
		return ready, false, err
	case optInfo, optGo:
		return c.infoOrGo(opt, data), false, nil
	case optListMeta, optSetMeta:
		c.metaContexts(opt, data)
		return false, false, nil
	case optList, optStartTLS, optStructuredReply, optExtendedHeaders:
		if len(data) > 0 {
			c.reply(opt, repErrInvalid, "this option has no data")
			return false, false, nil
		}
	default:
		c.reply(opt, repErrUnsup, "")
		return false, false, nil
	}
	switch opt {
	case optList:
		return false, false, c.list()
	case optStartTLS:
		return false, false, c.startTLS(ctx)
	case optStructuredReply:
		if c.mode == headersExtended {
			c.reply(opt, repErrExtHeaderRequired, "extended headers are in force")
			break
		}
		c.mode = headersStructured
		c.reply(opt, repAck, "")
	case optExtendedHeaders:
		c.mode = headersExtended
		c.reply(opt, repAck, "")
	}
	return false, false, nil
}

// reply appends a reply with a text, or with data in it.
func (c *conn) reply(opt option, kind optReply, data string) {
	c.options = be.AppendUint64(c.options, magicOptReply)
	c.options = be.AppendUint32(c.options, uint32(opt))
	c.options = be.AppendUint32(c.options, uint32(kind))
	c.options = be.AppendUint32(c.options, uint32(len(data)))
	c.options = append(c.options, data...)
}

func (c *conn) sendOptions() error {
	if len(c.options) == 0 {
		return nil
	}
	_, err := c.stream.Write(c.options)
	c.options = c.options[:0]
	return err
}

func (c *conn) list() error {
	var names []ExportName
	err := c.patiently(func(ctx context.Context) (err error) {
		names, err = c.server.cfg.Exports.List(ctx, c.peer)
		return err
	})
	if err != nil {
		kind, text := c.openFailure("", err)
		c.reply(optList, kind, text)
		return nil
	}
	for _, e := range names {
		if len(e.Name) > stringMax || len(e.Description) > stringMax || !c.allowed(e.Name) {
			continue
		}
		b := be.AppendUint32(nil, uint32(len(e.Name)))
		c.reply(optList, repServer, string(b)+e.Name+e.Description)
		if len(c.options) >= optionBytesMax {
			if err := c.sendOptions(); err != nil {
				return err
			}
		}
	}
	c.reply(optList, repAck, "")
	return nil
}

func (c *conn) startTLS(ctx context.Context) error {
	if c.tls != nil || c.tlsConfig == nil {
		kind, text := repErrInvalid, "TLS is on already"
		if c.tls == nil {
			kind, text = repErrPolicy, "TLS is not configured here"
		}
		c.reply(optStartTLS, kind, text)
		return nil
	}
	if c.in.buffered() > 0 {
		// Bytes sent ahead in the clear would be taken for bytes sent under TLS.
		return fmt.Errorf("data before the TLS handshake: %w", ErrProtocol)
	}
	c.reply(optStartTLS, repAck, "")
	if err := c.sendOptions(); err != nil {
		return err
	}
	c.wire = newTLSWire(c.raw, c.reads)
	conn := tls.Server(c.wire, c.tlsConfig)
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	c.tls, c.stream, c.in.src = conn, conn, conn
	c.peer.TLS = true
	if chains := conn.ConnectionState().VerifiedChains; len(chains) > 0 {
		c.peer.Certificate = chains[0][0]
	}
	// Nothing that was agreed on in the clear holds.
	c.mode, c.contexts, c.metaName = headersSimple, nil, ""
	c.release()
	return nil
}

// allowed asks the configured access rule.
func (c *conn) allowed(name string) bool {
	return c.server.cfg.Access == nil || c.server.cfg.Access(c.peer, name) == nil
}

// open makes the named export the held one. On failure it tells how to say so.
func (c *conn) open(name string) (kind optReply, text string) {
	if c.held != nil && c.heldName == name {
		return repAck, ""
	}
	c.release()
	if !c.allowed(name) {
		return repErrPolicy, "not allowed"
	}
	err := c.patiently(func(ctx context.Context) (err error) {
		c.held, err = c.server.cfg.Exports.Open(ctx, name, c.peer)
		return err
	})
	if err != nil {
		c.held = nil
		return c.openFailure(name, err)
	}
	c.heldName = name
	return repAck, ""
}

// patiently runs f, which may take long, within OpenTimeout; its time does not count as the
// handshake's. A shutdown ends its context.
func (c *conn) patiently(f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(c.server.opens, c.server.cfg.Limits.OpenTimeout)
	defer cancel()
	began := c.server.clock.Now()
	err := f(ctx)
	c.expires = c.expires.Add(c.server.clock.Now() - began)
	c.rearm()
	return err
}

func (c *conn) release() {
	if c.held != nil {
		c.closeHandle(c.held)
		c.held = nil
	}
}

// describe tells of the named export, opening it only where Exports cannot tell otherwise.
func (c *conn) describe(name string) (size uint64, info Info, kind optReply, text string) {
	d, ok := c.server.cfg.Exports.(Describer)
	if !ok || c.held != nil && c.heldName == name {
		if kind, text = c.open(name); kind != repAck {
			return 0, Info{}, kind, text
		}
		return c.held.Size(), c.held.Info(), repAck, ""
	}
	if !c.allowed(name) {
		return 0, Info{}, repErrPolicy, "not allowed"
	}
	err := c.patiently(func(ctx context.Context) (err error) {
		size, info, err = d.Describe(ctx, name, c.peer)
		return err
	})
	if err != nil {
		kind, text = c.openFailure(name, err)
		return 0, Info{}, kind, text
	}
	return size, info, repAck, ""
}

// openFailure puts an error of Exports into the protocol's words.
func (c *conn) openFailure(name string, err error) (optReply, string) {
	c.server.log.Info("nbd export refused", "conn", c.id, "export", name, "error", err)
	var public *Error
	switch {
	case errors.Is(err, ErrTLSRequired) && c.tls == nil:
		return repErrTLSRequired, "this export requires TLS"
	case errors.As(err, &public):
		return repErrUnknown, public.Text
	case errors.Is(err, errs.ErrNotFound):
		return repErrUnknown, "no such export"
	case errors.Is(err, errs.ErrDenied), errors.Is(err, ErrTLSRequired):
		return repErrPolicy, "not allowed"
	case errors.Is(err, errs.ErrClosed):
		return repErrShutdown, "shutting down"
	}
	return repErrUnknown, "not available now"
}

func (c *conn) exportName(name []byte) (bool, error) {
	if !validName(name) || c.mode == headersExtended || c.draining.Load() {
		return false, fmt.Errorf("export name of %d bytes refused: %w", len(name), ErrProtocol)
	}
	if kind, text := c.open(string(name)); kind != repAck {
		return false, fmt.Errorf("open export %q: %s", name, text)
	}
	c.enter(string(name))
	c.options = be.AppendUint64(c.options, c.dev.Size())
	c.options = be.AppendUint16(c.options, uint16(c.info.flags(c.mode, c.hasMeta(string(name)))))
	if !c.noZeroes {
		c.options = append(c.options, make([]byte, 124)...)
	}
	return true, nil
}

// enter makes the held export the one in use.
func (c *conn) enter(name string) {
	c.dev, c.held = c.held, nil
	c.info = c.dev.Info().withDefaults()
	if !c.hasMeta(name) {
		c.contexts = nil
	}
	c.export.Store(&name)
}

// infoOrGo answers both options; true when the transmission begins.
func (c *conn) infoOrGo(opt option, data []byte) bool {
	p := fields{data}
	name := p.text()
	wanted := p.count16(infosMax)
	asked := make(map[uint16]bool, 4)
	for range wanted {
		asked[p.uint16()] = true
	}
	if !p.end() || !validName(name) {
		c.reply(opt, repErrInvalid, "malformed request")
		return false
	}
	var size uint64
	var info Info
	var kind optReply
	var text string
	if opt == optGo {
		if kind, text = c.open(string(name)); kind == repAck {
			size, info = c.held.Size(), c.held.Info()
		}
	} else {
		size, info, kind, text = c.describe(string(name))
	}
	if kind != repAck {
		c.reply(opt, kind, text)
		return false
	}
	c.informs(opt, size, info.withDefaults(), c.hasMeta(string(name)), asked, string(name))
	c.reply(opt, repAck, "")
	if opt == optGo {
		c.enter(string(name))
	}
	return opt == optGo
}

// informs appends the infos of an export.
func (c *conn) informs(opt option, size uint64, info Info, meta bool, asked map[uint16]bool, name string) {
	b := be.AppendUint16(nil, infoExport)
	b = be.AppendUint64(b, size)
	b = be.AppendUint16(b, uint16(info.flags(c.mode, meta)))
	c.reply(opt, repInfo, string(b))
	if asked[infoBlockSize] || !info.sizesAreDefault() {
		b = be.AppendUint16(b[:0], infoBlockSize)
		b = be.AppendUint32(b, info.BlockMin)
		b = be.AppendUint32(b, info.BlockPreferred)
		b = be.AppendUint32(b, info.PayloadMax)
		c.reply(opt, repInfo, string(b))
	}
	if asked[infoName] {
		if info.Name != "" {
			name = info.Name
		}
		c.reply(opt, repInfo, string(be.AppendUint16(b[:0], infoName))+name)
	}
	if asked[infoDescription] && info.Description != "" {
		c.reply(opt, repInfo, string(be.AppendUint16(b[:0], infoDescription))+info.Description)
	}
}
