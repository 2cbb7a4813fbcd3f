package history

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
)

// Verdict is what Check found.
type Verdict struct {
	Cells, Ops, Reads, Lost int
	// Broken are the cells whose history no register could have.
	Broken []Broken
	// Undecided are cells for which the time did not suffice.
	Undecided []Cell
}

// Broken is a cell that was no register.
type Broken struct {
	Cell Cell
	Ops  []Op
	Info porcupine.LinearizationInfo
}

// OK tells that every cell was a register.
func (v Verdict) OK() bool { return len(v.Broken) == 0 && len(v.Undecided) == 0 }

func (v Verdict) String() string {
	s := fmt.Sprintf("%d operations on %d cells (%d reads, %d with unknown outcome)", v.Ops, v.Cells, v.Reads, v.Lost)
	if v.OK() {
		return s + ": every cell was a register"
	}
	return fmt.Sprintf("%s: %d cells were no register, %d undecided", s, len(v.Broken), len(v.Undecided))
}

// Model is a register of values, for porcupine.
var Model = porcupine.Model{
	Init: func() any { return Value(0) },
	Step: func(state, input, output any) (bool, any) {
		in := input.(Op)
		if in.Kind == Read {
			return state.(Value) == in.Value, state
		}
		return true, in.Value
	},
	Equal: func(a, b any) bool { return a.(Value) == b.(Value) },
	DescribeOperation: func(input, _ any) string {
		in := input.(Op)
		if in.Kind == Read {
			return fmt.Sprintf("read %d", in.Value)
		}
		return fmt.Sprintf("write %d", in.Value)
	},
	DescribeState: func(state any) string { return fmt.Sprint(state.(Value)) },
}

// Check judges a history, cell by cell. Each cell may take at most timeout.
func Check(ops []Op, timeout time.Duration) Verdict {
	cells := make(map[Cell][]Op)
	v := Verdict{Ops: len(ops)}
	for _, o := range ops {
		cells[o.Cell] = append(cells[o.Cell], o)
		if o.Kind == Read {
			v.Reads++
		}
		if o.Unknown {
			v.Lost++
		}
	}
	v.Cells = len(cells)
	names := make([]Cell, 0, len(cells))
	for c := range cells {
		names = append(names, c)
	}
	slices.Sort(names)
	var mu sync.Mutex
	var next atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(names); i = next.Add(1) - 1 {
				c := names[i]
				result, info := checkCell(cells[c], timeout)
				mu.Lock()
				switch result {
				case porcupine.Illegal:
					v.Broken = append(v.Broken, Broken{c, cells[c], info})
				case porcupine.Unknown:
					v.Undecided = append(v.Undecided, c)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.SortFunc(v.Broken, func(a, b Broken) int { return cmp.Compare(a.Cell, b.Cell) })
	return v
}

func checkCell(ops []Op, timeout time.Duration) (porcupine.CheckResult, porcupine.LinearizationInfo) {
	ops = prepare(ops)
	in := make([]porcupine.Operation, len(ops))
	for i, o := range ops {
		in[i] = porcupine.Operation{ClientId: o.Client, Input: o, Call: o.Call, Return: o.Return}
	}
	result := porcupine.CheckOperationsTimeout(Model, in, timeout)
	if result != porcupine.Illegal {
		return result, porcupine.LinearizationInfo{}
	}
	return porcupine.CheckOperationsVerbose(Model, in, timeout)
}

// prepare makes operations of unknown outcome cheap to judge, without changing what is
// legal. A lost write that nobody saw may be left out: no read depends on it. One that
// was seen has happened, by the first answer that shows it. Zeros are no unique value:
// a lost write of zeros stays, and may happen at any time or, at the very end, not at all.
func prepare(ops []Op) []Op {
	seen := make(map[Value]int64)
	for _, o := range ops {
		if o.Kind != Read || o.Value == 0 {
			continue
		}
		if at, ok := seen[o.Value]; !ok || o.Return < at {
			seen[o.Value] = o.Return
		}
	}
	out := make([]Op, 0, len(ops))
	for _, o := range ops {
		switch at, ok := seen[o.Value]; {
		case !o.Unknown:
		case o.Value == 0:
			o.Return = never
		case !ok:
			continue
		case at < o.Return:
			o.Return = max(at, o.Call)
		}
		out = append(out, o)
	}
	return out
}

// Describe tells the story of a broken cell around its last legal moment, for people.
func (b Broken) Describe(linesMax int) string {
	ops := slices.Clone(b.Ops)
	slices.SortFunc(ops, func(x, y Op) int { return cmp.Compare(x.Call, y.Call) })
	legal := longest(b.Info)
	at := 0
	if legal >= 0 {
		at = min(legal, len(ops))
	}
	from := max(0, min(at-linesMax/2, len(ops)-linesMax))
	var s strings.Builder
	fmt.Fprintf(&s, "cell %s: %d operations, the first %d can be put in an order; around there:\n", b.Cell, len(ops), at)
	for _, o := range ops[from:min(len(ops), from+linesMax)] {
		what := "read "
		if o.Kind == Write {
			what = "write"
		}
		end := time.Duration(o.Return).String()
		if o.Unknown {
			end = "unknown, by " + end
			if o.Return == never {
				end = "unknown"
			}
		}
		fmt.Fprintf(&s, "  client %2d  %s %-8d called %-14s answered %s\n", o.Client, what, o.Value, time.Duration(o.Call), end)
	}
	return s.String()
}

// longest is the length of the longest legal prefix that porcupine found.
func longest(info porcupine.LinearizationInfo) int {
	best := -1
	for _, partition := range info.PartialLinearizations() {
		for _, order := range partition {
			best = max(best, len(order))
		}
	}
	return best
}
