package restore

import (
	"context"
	"fmt"
	"slices"

	"ashlar.dev/pkg/archive"
	"ashlar.dev/pkg/block"
	"ashlar.dev/pkg/codec"
	"ashlar.dev/pkg/errs"
	"ashlar.dev/pkg/segment"
)

// group is the blocks of one, pages translated. Stale, bit by bit, are pages that refer to segments that the manifest does
// not have: an archive that was made of a later snapshot against an earlier one has objects of that one, and in these pages
// that the later one does not hold any more. Nothing leads to them, and they are given to nobody.
type group struct {
	data  []byte
	stale staleSlots
}

// staleSlots has a bit for each slot of a group.
type staleSlots uint16

var _ [16]struct{} = [archive.GroupSlots]struct{}{} // as many as there are bits

func (s staleSlots) has(at int) bool { return s&(1<<(at%archive.GroupSlots)) != 0 }
func (s *staleSlots) add(at int)     { *s |= 1 << (at % archive.GroupSlots) }

// group gives the blocks of a group. Who waits for one that is being fetched with others waits for these.
func (d *Disk) group(ctx context.Context, r *archive.Reader, i uint32, p *archive.Part, g int) (*group, error) {
	k := groupKey{partKey{d.given.First, i}, g}
	for {
		b, there, f, ours := d.a.groups.claim(k)
		switch {
		case there:
			return b, nil
		case ours:
			return d.fetch(ctx, r, k, p)
		}
		select {
		case <-f.done:
			if f.err == nil {
				return f.value, nil
			}
			if errs.CodeOf(f.err) != errs.Unavailable && errs.CodeOf(f.err) != errs.Timeout {
				return nil, f.err
			}
			// Whoever fetched it may have had less patience: it is our turn.
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the archive: %w: %w", errs.ErrUnavailable, ctx.Err())
		}
		if ctx.Err() != nil {
			return nil, f.err
		}
	}
}

// fetch reads the group that was claimed, and those after it that nobody has, in one request.
func (d *Disk) fetch(ctx context.Context, r *archive.Reader, k groupKey, p *archive.Part) (*group, error) {
	n := 1
	for ahead := d.ahead(k); n < ahead && k.group+n < p.Groups(); n++ {
		if !d.a.groups.try(groupKey{k.partKey, k.group + n}) {
			break
		}
	}
	blocks, stale, err := d.fetchGroups(ctx, r, k, p, n)
	if err != nil && n > 1 {
		// One of those after it may be damaged, and nobody asked for that one.
		for j := 1; j < n; j++ {
			d.a.groups.land(groupKey{k.partKey, k.group + j}, nil, err)
		}
		n = 1
		blocks, stale, err = d.fetchGroups(ctx, r, k, p, n)
	}
	var first *group
	for j := range n {
		var g *group
		if err == nil {
			size := min(len(blocks), archive.GroupSlots*block.Size)
			g, blocks = &group{slices.Clone(blocks[:size]), stale[j]}, blocks[size:]
		}
		if j == 0 {
			first = g
		}
		d.a.groups.land(groupKey{k.partKey, k.group + j}, g, err)
	}
	return first, err
}

// ahead is how many groups to fetch for one that is wanted.
func (d *Disk) ahead(k groupKey) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.next == k {
		d.mu.ahead = min(2*d.mu.ahead, aheadGroupsMax)
	} else {
		d.mu.ahead = aheadGroups
	}
	d.mu.next = groupKey{k.partKey, k.group + d.mu.ahead}
	return d.mu.ahead
}

// fetchGroups reads n groups from k on and translates their pages; of each it tells which are stale.
func (d *Disk) fetchGroups(ctx context.Context, r *archive.Reader, k groupKey, p *archive.Part, n int) (b []byte, stale []staleSlots, err error) {
	done, err := d.a.turn(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	if b, err = r.Groups(ctx, int(k.segment), p, k.group, n); err != nil {
		return nil, nil, err
	}
	stale = make([]staleSlots, n)
	for j, s := range p.Slots[k.group*archive.GroupSlots:][:len(b)/block.Size] {
		if s.Entry.Kind() != segment.MapPage {
			continue
		}
		if !d.translatePage(r.Manifest(), b[j*block.Size:][:block.Size]) {
			stale[j/archive.GroupSlots].add(j)
		}
	}
	return b, stale, nil
}

// Wanted is a slot to be filled in.
type Wanted struct {
	Slot  uint16
	Entry uint64
	Data  []byte // a block
	Sum   uint32 // CRC-32C of Data as it is filled in
	Stale bool   // instead: it is a page that the archived snapshot does not hold any more, and leads nowhere
}

// Fill reads slots of the i-th segment, which are in order, past the cache: nobody will read them here again.
func (d *Disk) Fill(ctx context.Context, i uint32, want []Wanted) error {
	err := d.fill(ctx, i, want)
	d.note(i, err)
	return err
}

func (d *Disk) fill(ctx context.Context, i uint32, want []Wanted) error {
	r, err := d.open(ctx)
	if err != nil {
		return err
	}
	p, err := d.part(ctx, r, i)
	if err != nil {
		return err
	}
	places := make([]int, len(want))
	for n := range want {
		at, ok := p.Find(want[n].Slot)
		if !ok || uint64(p.Slots[at].Entry) != want[n].Entry {
			return fmt.Errorf("slot %d of archived segment %s does not hold %s: %w", want[n].Slot, p.Segment, segment.Entry(want[n].Entry), errs.ErrCorrupt)
		}
		places[n] = at
	}
	for n := 0; n < len(want); {
		first := places[n] / archive.GroupSlots
		end := n
		for end < len(want) && places[end]/archive.GroupSlots < first+fillGroups {
			end++
		}
		count := places[end-1]/archive.GroupSlots - first + 1
		b, stale, err := d.fetchGroups(ctx, r, groupKey{partKey{d.given.First, i}, first}, p, count)
		if err != nil {
			return err
		}
		for ; n < end; n++ {
			x, at := &want[n], places[n]-first*archive.GroupSlots
			if x.Stale = stale[at/archive.GroupSlots].has(at); x.Stale {
				continue
			}
			copy(x.Data, b[at*block.Size:][:block.Size])
			x.Sum = codec.CRC(x.Data)
		}
	}
	return nil
}
