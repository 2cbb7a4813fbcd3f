package segment

import (
	"encoding/binary"

	"ashlar.dev/pkg/codec"
)

// AppendEntries appends the compact form of entries to dst; see FORMAT.md. Runs
// of ascending addresses cost least. All entries must be Valid. The number of
// entries is not part of the form.
func AppendEntries[E ~uint64](dst []byte, entries []E) []byte {
	for i := 0; i < len(entries); {
		n := group(entries[i:])
		kind := Entry(entries[i]).Kind()
		dst = binary.AppendUvarint(dst, uint64(n)<<2|uint64(kind))
		if kind != Empty {
			dst = appendGroup(dst, entries[i:i+n])
		}
		i += n
	}
	return dst
}

// group is the number of entries from the first on that are of its kind and,
// unless empty, ascend.
func group[E ~uint64](entries []E) int {
	first := Entry(entries[0])
	if !first.Valid() {
		panic("segment: an entry that is not valid: " + first.String())
	}
	n := 1
	for n < len(entries) {
		e := Entry(entries[n])
		if e.Kind() != first.Kind() || first.Kind() != Empty && e <= Entry(entries[n-1]) {
			break
		}
		n++
	}
	return n
}

func appendGroup[E ~uint64](dst []byte, entries []E) []byte {
	last := uint64(entries[0])
	dst = binary.AppendUvarint(dst, last&valueMask)
	for i := 1; i < len(entries); {
		if gap := uint64(entries[i]) - last - 1; gap != 0 {
			dst = binary.AppendUvarint(dst, gap<<1)
			last = uint64(entries[i])
			i++
			continue
		}
		run := 0
		for i < len(entries) && uint64(entries[i]) == last+1 {
			last++
			run++
			i++
		}
		dst = binary.AppendUvarint(dst, uint64(run-1)<<1|1)
	}
	return dst
}

// DecodeEntries reads exactly len(dst) entries from r, all Valid unless r has an error then.
func DecodeEntries[E ~uint64](r *codec.Reader, dst []E) {
	for i := 0; i < len(dst) && r.Err() == nil; {
		head := r.Uvarint()
		n := head >> 2
		if n == 0 || n > uint64(len(dst)-i) {
			r.Fail("entries in a group", uint64(len(dst)-i), n)
			return
		}
		out := dst[i : i+int(n)]
		if kind := Kind(head & 3); kind == Empty {
			clear(out)
		} else {
			decodeGroup(r, kind, out)
		}
		i += int(n)
	}
}

func decodeGroup[E ~uint64](r *codec.Reader, kind Kind, dst []E) {
	v := r.Uvarint()
	if v > valueMask {
		r.Fail("first value of a group", valueMask, v)
		return
	}
	dst[0] = E(kind)<<kindShift | E(v)
	for i := 1; i < len(dst) && r.Err() == nil; {
		step := r.Uvarint()
		if step&1 == 0 {
			if step == 0 || step>>1 > valueMask-min(v, valueMask-1)-1 {
				r.Fail("step", valueMask, step)
				return
			}
			v += 1 + step>>1
			dst[i] = E(kind)<<kindShift | E(v)
			i++
			continue
		}
		run := step>>1 + 1
		if run > uint64(len(dst)-i) || run > valueMask-v {
			r.Fail("run", uint64(len(dst)-i), run)
			return
		}
		for range run {
			v++
			dst[i] = E(kind)<<kindShift | E(v)
			i++
		}
	}
	// Values ascend, so that the last being in range puts all in range.
	if last := Entry(dst[len(dst)-1]); r.Err() == nil && !last.Valid() {
		r.Fail("entry", 0, uint64(last))
	}
}
