package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"ashlar.dev/pkg/errs"
)

// withContexts has contexts of its own: changed:a and changed:b, and enough of them in many:.
type withContexts struct {
	*fakes
	asked []string
}

func (e *withContexts) MetaContexts(_ context.Context, export, query string, _ Peer) (out []MetaContext, err error) {
	e.asked = append(e.asked, export+" "+query)
	if query == "changed:broken" {
		return nil, errs.ErrUnavailable
	}
	for i := range byte(40) {
		name := fmt.Sprintf("many:%d", i)
		if i < 2 {
			name = "changed:" + string('a'+rune(i))
		}
		if name == query || query == "" || strings.HasSuffix(query, ":") && strings.HasPrefix(name, query) {
			out = append(out, MetaContext{name, ContextKey{i + 1}})
		}
	}
	return out, nil
}

// byContext answers a block status with a state that tells its context apart.
func byContext(r *Request) bool {
	if r.Op != OpBlockStatus {
		return false
	}
	r.AddExtent(1024, State(r.Context[0]|1))
	r.AddExtent(r.Length-1024, 0)
	r.Complete(nil)
	return true
}

// Without this a client would be told of one context in another's name, or not be told of one that it selected.
func TestContextsAreAnsweredOneByOne(t *testing.T) {
	for _, mode := range allModes[1:] {
		list := func(id uint32, state byte) []byte {
			if mode == headersExtended {
				return cat(u32(id), u32(2), u64(1024), u64(uint64(state)), u64(3072), u64(0))
			}
			return cat(u32(id), u32(1024), u32(uint32(state)), u32(3072), u32(0))
		}
		e := &withContexts{fakes: one(&fake{data: make([]byte, 8192), hold: byContext})}
		_, p := serve(t, Config{Exports: e}, Endpoint{})
		p.greet(3)
		p.wantOption(map[headers]option{headersStructured: optStructuredReply, headersExtended: optExtendedHeaders}[mode], nil, repAck)
		got := p.wantOption(optSetMeta, metaData("disk", "changed:b", metaAllocation, "changed:none", "changed:broken", "changed:b"), repMeta, repMeta, repAck)
		if want := cat(u32(2), []byte("changed:b")); !bytes.Equal(got[0], want) {
			t.Fatalf("selected %q, want %q", got[0], want)
		}
		p.option(optGo, goData("disk"))
		h := requestHeader{op: OpBlockStatus, length: 4096, cookie: 5}
		p.request(mode, h, nil)
		if got, want := p.wantReply(mode, h, 0), cat(list(2, 3), list(1, 1)); !bytes.Equal(got, want) {
			t.Errorf("%v: %x, want %x", mode, got, want)
		}
		if mode == headersExtended { // narrowed to one of them
			h = requestHeader{op: OpBlockStatus, flags: flagPayloadLen, length: 12, cookie: 6}
			p.request(mode, h, cat(u64(4096), u32(1)))
			if got := p.wantReply(mode, h, 0); !bytes.Equal(got, list(1, 1)) {
				t.Errorf("narrowed: %x, want %x", got, list(1, 1))
			}
			h.length = 16
			p.request(mode, h, cat(u64(4096), u32(1), u32(2)))
			if got, want := p.wantReply(mode, h, 0), cat(list(2, 3), list(1, 1)); !bytes.Equal(got, want) {
				t.Errorf("both named: %x, want %x", got, want)
			}
		}
	}
}

// Without this a peer could make the Exports work for as many contexts as it likes, or a context be
// selected by half its name.
func TestContextsAreLimited(t *testing.T) {
	e := &withContexts{fakes: one(&fake{data: make([]byte, 8192)})}
	_, p := serve(t, Config{Exports: e}, Endpoint{})
	p.greet(3)
	p.wantOption(optExtendedHeaders, nil, repAck)
	p.wantOption(optSetMeta, metaData("disk", "changed:", "many:"), repAck) // no context has that name
	var many []string
	for i := range contextsMax + 1 {
		many = append(many, fmt.Sprintf("many:%d", i+2))
	}
	p.wantOption(optSetMeta, metaData("disk", many...), repErrTooBig)
	e.asked = nil
	p.wantOption(optListMeta, metaData("disk", many...), repErrTooBig)
	if len(e.asked) > lookupsMax {
		t.Errorf("one option made %d lookups", len(e.asked))
	}
	if got := p.wantOption(optListMeta, metaData("disk", "changed:"), repMeta, repMeta, repAck); string(got[0][4:]) != "changed:a" {
		t.Errorf("listed %q", got)
	}
	if kinds, _ := p.option(optListMeta, metaData("disk")); len(kinds) != 1+40+1 {
		t.Errorf("%d replies to a list of all", len(kinds))
	}
}

// Without this a client that asks for a context would take what the server says of another for an answer.
func TestClientWantsTheContextItAskedFor(t *testing.T) {
	for _, o := range []ClientOptions{{}, {NoExtended: true}} {
		e := &withContexts{fakes: one(&fake{data: make([]byte, 8192), hold: byContext})}
		s, err := NewServer(Config{Exports: e})
		if err != nil {
			t.Fatal(err)
		}
		dial := func(name string) (*Client, error) {
			ours, theirs := socketPair(t)
			go s.ServeConn(theirs, Endpoint{})
			o.Context = name
			return NewClient(t.Context(), ours, false, "disk", o)
		}
		c, err := dial("changed:b")
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.BlockStatus(0, 4096, 0)
		if err != nil || len(got) != 2 || got[0] != (Extent{1024, 3}) {
			t.Errorf("%v %v", got, err)
		}
		if _, err := dial("changed:none"); !errors.Is(err, errs.ErrNotFound) {
			t.Errorf("a context that is not there: %v", err)
		}
		if err := errors.Join(c.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	}
}
