package nbd

import (
	"bytes"
	"context"
	"math/bits"
	"strings"

	"ashlar.dev/pkg/buf"
)

// ContextKey says to a device what a block status is about. Zero is base:allocation, other keys mean
// what the Exports that gave them say.
type ContextKey [16]byte

// MetaContext is one that Exports offer besides base:allocation.
type MetaContext struct {
	Name string // as clients select it: namespace:leaf
	Key  ContextKey
}

// MetaContexts is for Exports that have contexts of their own. A device of theirs answers each
// OpBlockStatus as its Context wants it.
type MetaContexts interface {
	// MetaContexts gives the contexts of the export that a query means: the one of this name, or, where it
	// ends with a colon, those that begin with it; all for the empty query. Of a name that is not there it
	// gives none. The server calls it during the handshake, once for a query.
	MetaContexts(ctx context.Context, export, query string, peer Peer) ([]MetaContext, error)
}

// Limits of contexts in one option of the handshake.
const (
	contextsMax = 16  // that one connection selects
	listedMax   = 300 // that one option lists
	lookupsMax  = 16  // queries with which the Exports are asked
)

// selected is a context of a connection, with its number on the wire.
type selected struct {
	id  uint32
	key ContextKey
}

// statesMask are the bits that states have, whatever the context.
const statesMask = StateHole | StateZero

// queryContexts finds what the queries of an option mean; set: they select, so they name contexts exactly.
func (c *conn) queryContexts(export string, queries []string, set bool) (found []MetaContext, tooMany bool) {
	lookups := 0
	add := func(x MetaContext) {
		for _, y := range found {
			if x.Name == y.Name {
				return
			}
		}
		found = append(found, x)
	}
	for _, q := range queries {
		if q == metaAllocation || !set && (q == "base:" || q == "") {
			add(MetaContext{Name: metaAllocation})
		}
		own, ok := c.server.cfg.Exports.(MetaContexts)
		if !ok || strings.HasPrefix(q, "base:") || set && strings.HasSuffix(q, ":") {
			continue
		}
		if lookups++; lookups > lookupsMax {
			return nil, true
		}
		var more []MetaContext
		err := c.patiently(func(ctx context.Context) (err error) {
			more, err = own.MetaContexts(ctx, export, q, c.peer)
			return err
		})
		if err != nil {
			continue // as the protocol has it: what cannot be had is not among the answers
		}
		for _, x := range more {
			add(x)
		}
	}
	if set && len(found) > contextsMax {
		return nil, true
	}
	return found[:min(len(found), listedMax)], false
}

// metaContexts answers both options on meta contexts.
func (c *conn) metaContexts(opt option, data []byte) {
	set := opt == optSetMeta
	if set {
		c.contexts, c.metaName = nil, ""
	}
	if c.mode == headersSimple {
		c.reply(opt, repErrInvalid, "structured replies come first")
		return
	}
	p := fields{data}
	name := p.text()
	n := p.uint32()
	if n > queriesMax && p.ok() {
		c.reply(opt, repErrTooBig, "too many queries")
		return
	}
	var queries []string
	for range n {
		query := p.text()
		if len(query) > stringMax || p.ok() && !bytes.ContainsRune(query, ':') {
			p.bad()
		}
		queries = append(queries, string(query))
	}
	if !p.end() || !validName(name) {
		c.reply(opt, repErrInvalid, "malformed request")
		return
	}
	if _, _, kind, text := c.describe(string(name)); kind != repAck {
		c.reply(opt, kind, text)
		return
	}
	if n == 0 && !set {
		queries = []string{""}
	}
	found, tooMany := c.queryContexts(string(name), queries, set)
	if tooMany {
		c.reply(opt, repErrTooBig, "too many contexts")
		return
	}
	if set && len(found) > 0 {
		c.metaName = string(name)
	}
	for i, x := range found {
		id := uint32(0)
		if set {
			if id = metaAllocationID; x.Key != (ContextKey{}) {
				id += uint32(i) + 1
			}
			c.contexts = append(c.contexts, selected{id, x.Key})
		}
		c.reply(opt, repMeta, string(be.AppendUint32(nil, id))+x.Name)
	}
	c.reply(opt, repAck, "")
}

// hasMeta tells whether a block status of the named export has something to say.
func (c *conn) hasMeta(name string) bool { return len(c.contexts) > 0 && c.metaName == name }

// wantContexts reads the ids of a block status that wants only some of the selected contexts; 0: it is not right.
func (c *conn) wantContexts(ids []byte) (wanted uint32) {
	for ; len(ids) >= 4; ids = ids[4:] {
		bit := uint32(0)
		for i, x := range c.contexts {
			if x.id == be.Uint32(ids) {
				bit = 1 << i
			}
		}
		if bit == 0 || wanted&bit != 0 {
			return 0
		}
		wanted |= bit
	}
	return wanted
}

// nextContext begins with the next context that r is to be answered for; false: there is none.
func (c *conn) nextContext(r *Request) bool {
	i := bits.TrailingZeros32(r.reply.wanted)
	if i >= len(c.contexts) {
		return false
	}
	r.reply.wanted &^= 1 << i
	r.reply.context = c.contexts[i].id
	r.Context = c.contexts[i].key
	r.extents, r.covered = r.extents[:0], 0
	return true
}

// finishStatus appends the extents of r to its payload: context, then the list in the form of the mode.
// With more contexts to answer for it goes to the device again.
func (c *conn) finishStatus(r *Request) (again bool) {
	if len(r.extents) == 0 {
		r.AddExtent(r.Length, StateData)
	}
	extents := r.extents
	last := &extents[len(extents)-1]
	if r.Flags&FlagReqOne != 0 {
		last.Length = min(last.Length, r.Length)
	} else if size := c.dev.Size(); r.covered > size-r.Offset {
		last.Length -= min(last.Length-1, r.covered-(size-r.Offset))
	}
	before := r.buffer
	room := len(r.Data) + 8 + 16*len(extents)
	r.buffer = buf.Get(room)
	b := append(r.buffer.Bytes()[:0], r.Data...)
	before.Release()
	b = be.AppendUint32(b, r.reply.context)
	if c.mode == headersExtended {
		b = be.AppendUint32(b, uint32(len(extents)))
	}
	for _, e := range extents {
		if c.mode == headersExtended {
			b = be.AppendUint64(be.AppendUint64(b, e.Length), uint64(e.State))
			continue
		}
		b = be.AppendUint32(b, uint32(min(e.Length, extentMax32)))
		b = be.AppendUint32(b, uint32(e.State))
		if e.Length > extentMax32 {
			break // the rest would not follow on
		}
	}
	r.Data = b
	r.reply.ends = append(r.reply.ends, len(b))
	if !c.nextContext(r) {
		return false
	}
	r.hooks = append(r.hooks, c)
	c.dev.Submit(r)
	return true
}

// extentMax32 is the longest extent of a compact reply: the last multiple of a block in 32 bits.
const extentMax32 = 1<<32 - blockPreferredDefault

// encodeStatus sends a chunk for each context.
func (c *conn) encodeStatus(r *Request, v *vec) bool {
	n := len(r.reply.ends)
	if !v.room(n*c.mode.chunkLen(), n) {
		return false
	}
	kind := chunkStatus
	if c.mode == headersExtended {
		kind = chunkStatusEx
	}
	from := 0
	for i, to := range r.reply.ends {
		var flags uint16
		if i == n-1 {
			flags = chunkDone
		}
		c.chunk(r, v, flags, kind, to-from, 0)
		v.payload(r.Data[from:to])
		from = to
	}
	return true
}
