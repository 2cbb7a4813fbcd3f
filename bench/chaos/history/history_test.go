package history

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

const cell = Cell(7)

func write(client int, v Value, call, ret int64) Op {
	return Op{Client: client, Kind: Write, Cell: cell, Value: v, Call: call, Return: ret}
}

func read(client int, v Value, call, ret int64) Op {
	return Op{Client: client, Kind: Read, Cell: cell, Value: v, Call: call, Return: ret}
}

func lost(client int, v Value, call, by int64) Op {
	return Op{Client: client, Kind: Write, Cell: cell, Value: v, Call: call, Return: by, Unknown: true}
}

// Without this a checker that approves of everything would pass for proof.
func TestCheckerJudgesFabricatedHistories(t *testing.T) {
	for _, x := range []struct {
		name string
		ops  []Op
		ok   bool
	}{
		{"zeros at first", []Op{read(1, 0, 0, 1)}, true},
		{"reads its own write", []Op{write(1, 1, 0, 1), read(1, 1, 2, 3)}, true},
		{"stale read: the older value after the newer was acknowledged", []Op{write(1, 1, 0, 1), write(1, 2, 2, 3), read(2, 1, 4, 5)}, false},
		{"stale read: older after newer was seen", []Op{write(1, 1, 0, 1), write(1, 2, 2, 20), read(2, 2, 3, 4), read(3, 1, 5, 6)}, false},
		{"old or new while the write is under way", []Op{write(1, 1, 0, 1), write(1, 2, 2, 20), read(2, 1, 3, 4), read(3, 2, 5, 6)}, true},
		{"lost write: zeros after an acknowledged write", []Op{write(1, 1, 0, 1), read(2, 0, 2, 3)}, false},
		{"lost write: the one before is back", []Op{write(1, 1, 0, 1), read(2, 1, 2, 3), write(1, 2, 4, 5), read(2, 2, 6, 7), read(2, 1, 8, 9)}, false},
		{"a value nobody wrote", []Op{write(1, 1, 0, 1), read(2, 9, 2, 3)}, false},
		{"a value seen before it was written", []Op{read(2, 1, 0, 1), write(1, 1, 2, 3)}, false},
		{"unknown outcome: it happened", []Op{write(1, 1, 0, 1), lost(1, 2, 2, never), read(2, 2, 9, 10)}, true},
		{"unknown outcome: it did not", []Op{write(1, 1, 0, 1), lost(1, 2, 2, never), read(2, 1, 9, 10)}, true},
		{"unknown outcome: late, without a session rule", []Op{lost(1, 2, 2, never), write(1, 3, 4, 5), read(2, 3, 6, 7), read(2, 2, 9, 10)}, true},
		{"unknown outcome: late, though the newer session was let in", []Op{lost(1, 2, 2, 3), write(1, 3, 4, 5), read(2, 3, 6, 7), read(2, 2, 9, 10)}, false},
		{"unknown outcome: it happened and is gone again", []Op{lost(1, 2, 2, never), read(2, 2, 3, 4), read(2, 0, 5, 6)}, false},
		{"unknown zeros: happened", []Op{write(1, 1, 0, 1), lost(1, 0, 2, never), read(2, 0, 9, 10)}, true},
		{"unknown zeros: not", []Op{write(1, 1, 0, 1), lost(1, 0, 2, never), read(2, 1, 9, 10)}, true},
		{"zeros acknowledged, the old value back", []Op{write(1, 1, 0, 1), write(1, 0, 2, 3), read(2, 1, 4, 5)}, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			v := Check(x.ops, time.Minute)
			if v.OK() != x.ok {
				t.Fatalf("judged %v, want %v: %s", v.OK(), x.ok, v)
			}
			if !x.ok && !strings.Contains(v.Broken[0].Describe(10), "cell 0.7") {
				t.Errorf("story: %s", v.Broken[0].Describe(10))
			}
		})
	}
}

// Without this a long run would be undecided: histories as they come, of a real register
// with many unknown outcomes, must be judged within moments, and one stale read found in them.
func TestCheckerIsFastAndFindsOneStaleRead(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var ops []Op
	var value, next Value
	now := int64(0)
	for range 800 {
		now += 10
		width := int64(rng.IntN(60)) // they overlap their neighbours
		switch rng.IntN(10) {
		case 0, 1, 2:
			next++
			value = next
			ops = append(ops, write(rng.IntN(8), value, now-width, now+int64(rng.IntN(60))))
		case 3: // no answer; half of them happened
			next++
			o := lost(rng.IntN(8), next, now-width, never)
			if rng.IntN(2) == 0 {
				value = next
			}
			ops = append(ops, o)
		default:
			ops = append(ops, read(rng.IntN(8), value, now-width, now+int64(rng.IntN(60))))
		}
	}
	if v := Check(ops, time.Minute); !v.OK() {
		t.Fatalf("a true history: %s\n%s", v, v.Broken[0].Describe(20))
	}
	i := slices.IndexFunc(ops, func(o Op) bool { return o.Kind == Read && o.Call > 5_000 })
	j := slices.IndexFunc(ops, func(o Op) bool { return o.Kind == Read && o.Value != 0 && o.Call > 1000 })
	ops[i].Value = ops[j].Value
	if v := Check(ops, time.Minute); v.OK() || len(v.Broken) != 1 {
		t.Fatalf("a stale read went unseen: %s", v)
	}
}

// Without this a torn block, or one from another place, would pass as data.
func TestParseShowsTornAndStrangeCells(t *testing.T) {
	for _, size := range []int{1024, 4096} {
		p := make([]byte, 4*size)
		Fill(p, 5, 100, size)
		for i := range 4 {
			if v, err := Parse(p[i*size:(i+1)*size], Cell(100+i)); v != 5 || err != nil {
				t.Fatalf("cell %d: %d %v", i, v, err)
			}
		}
		if _, err := Parse(p[:size], 101); err == nil {
			t.Error("a cell from another place passed")
		}
		q := make([]byte, size)
		Fill(q, 6, 100, size)
		copy(q[size/2:], p[size/2:size])
		if _, err := Parse(q, 100); err == nil || !strings.Contains(err.Error(), "torn") {
			t.Errorf("a torn cell: %v", err)
		}
		Fill(q, 0, 100, size)
		if v, err := Parse(q, 100); v != 0 || err != nil {
			t.Errorf("zeros: %d %v", v, err)
		}
		q[size-1] = 1
		if _, err := Parse(q, 100); err == nil {
			t.Error("dirty zeros passed")
		}
	}
}

// Without this a log would forget what it was told: unknown outcomes, breaches, and the bound of a session.
func TestLogRecords(t *testing.T) {
	l := NewLog()
	a, b := l.NewValue(), l.NewValue()
	l.Done(Span{Client: 1, Kind: Write, First: cell, Count: 2, Value: a, Call: l.Now()})
	l.Lost(Span{Client: 1, Kind: Write, First: cell, Count: 1, Value: b, Call: l.Now()})
	l.Lost(Span{Client: 1, Kind: Read, First: cell, Count: 1, Call: l.Now()})
	p := make([]byte, 2*64)
	Fill(p[:64], a, cell, 64)
	Fill(p[64:], a, cell+5, 64) // not where it belongs
	l.Saw(Span{Client: 2, Kind: Read, First: cell, Count: 2, Call: l.Now()}, p, 64)
	l.Bound(1)
	ops := l.Ops()
	if len(ops) != 4 || len(l.Breaches()) != 1 || !ops[2].Unknown || ops[2].Return == never || ops[3].Value != a {
		t.Fatalf("%+v\n%v", ops, l.Breaches())
	}
	var buf bytes.Buffer
	if err := Save(&buf, ops); err != nil {
		t.Fatal(err)
	}
	back, err := Load(&buf)
	if err != nil || !slices.Equal(back, ops) {
		t.Fatalf("%v\n%v\n%v", err, ops, back)
	}
}
