package archive

import (
	"crypto/sha256"
	"encoding/binary"

	"ashlar.dev/pkg/errs"
)

// openObject checks the header of an object and gives what opens its parts.
func openObject(place string, head []byte, s *Secret) (*sealer, Salt, error) {
	bad := func(what string, want, got uint64) (*sealer, Salt, error) {
		return nil, Salt{}, &errs.Corrupt{Place: place, What: what, Want: want, Got: got}
	}
	le := binary.LittleEndian
	if len(head) < objectFixed || le.Uint32(head) != objectMagic {
		return bad("beginning of an object", objectMagic, uint64(len(head)))
	}
	if version, flags := le.Uint16(head[4:]), le.Uint16(head[6:]); version != objectVersion || flags&^flagSealed != 0 {
		return bad("object version", objectVersion, uint64(version))
	}
	s, err := s.fits(place, le.Uint16(head[6:])&flagSealed != 0, KeyID(head[8:16]))
	if err != nil {
		return nil, Salt{}, err
	}
	salt := Salt(head[16:32])
	return s.of(salt, "object"), salt, nil
}

// ParseObject checks a whole object, every block of it, and says what a manifest would. Visit, if not nil, sees
// each part with its blocks, in the order of its slots.
func ParseObject(key string, body []byte, s *Secret, visit func(*Part, []byte) error) (Object, []Segment, error) {
	o := Object{Key: key, Size: uint64(len(body)), SHA: sha256.Sum256(body)}
	if len(body) > ObjectMax {
		return o, nil, &errs.Corrupt{Place: key, Offset: -1, What: "bytes of an object", Want: ObjectMax, Got: uint64(len(body))}
	}
	seal, salt, err := openObject(key, body, s)
	if err != nil {
		return o, nil, err
	}
	o.Salt = salt
	var parts []Segment
	for at := uint64(objectFixed); at < uint64(len(body)); {
		rest := body[at:]
		head := uint64(partFixed)
		if len(rest) >= partFixed {
			head += uint64(binary.LittleEndian.Uint32(rest[16:]))
		}
		if head > uint64(len(rest)) || head > headMax {
			return o, nil, &errs.Corrupt{Place: key, Offset: int64(at), What: "bytes of a part's head", Want: uint64(len(rest)), Got: head}
		}
		p, err := decodePart(key, rest[:head], at, seal)
		if err != nil {
			return o, nil, err
		}
		data, end, err := p.openAll(key, body, seal)
		if err == nil && visit != nil {
			err = visit(p, data)
		}
		if err != nil {
			return o, nil, err
		}
		parts = append(parts, Segment{ID: p.Segment, Offset: uint32(at), Length: uint32(end - at), Head: uint32(head), Slots: uint16(len(p.Slots))})
		at = end
	}
	return o, parts, nil
}

// openAll opens every group of a part out of its object; end is where the part ends.
func (p *Part) openAll(place string, object []byte, s *sealer) (data []byte, end uint64, err error) {
	for g, x := range p.groups {
		end = x.offset + uint64(x.length)
		if end > uint64(len(object)) {
			return nil, 0, &errs.Corrupt{Place: place, Offset: int64(x.offset), What: "end of a group", Want: uint64(len(object)), Got: end}
		}
		b, err := p.openGroup(place, g, object[x.offset:end], s)
		if err != nil {
			return nil, 0, err
		}
		data = append(data, b...)
	}
	return data, end, nil
}
