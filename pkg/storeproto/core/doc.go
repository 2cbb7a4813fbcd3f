// Package core has the rules of one chunk store as a step function: streams and
// their tails, fences, leases, drops, releases, tombstones and PG versions. It
// starts no goroutine, reads no clock and does no I/O. A shell feeds it requests
// and the time, carries out what it hands back, and tells it when that is
// durable. The store on a disk, the store in memory and the simulator are shells.
//
// One queue. Every change of what a store promises passes through one queue, those of
// a volume in the order in which the core admitted them:
//
//	c.Append(a), c.Fence(now, f), c.Drop(d), …   decide, and enter the queue
//	g := c.Take(…)                                the next group
//	(the shell writes every op of g and makes all of it durable)
//	c.Durable(now, g)                             state moves, answers come out
//	c.Replies(…)                                  answers to deliver, in order
//
// While all that waits fits in one group it goes; else volumes take turns by bytes
// (turns.go), and what concerns all volumes passes nothing and is passed by nothing.
// At most one group is out at a time, so groups become durable in order. An
// answer that needs no write still waits for its turn, so that one sender's
// requests to one stream are answered in the order of the calls.
//
// Admission looks at what is admitted, not at what is durable: a fence refuses
// lower epochs from the moment it is admitted, while appends admitted before it
// are ahead of it in the queue and so are durable, and in the reported tails,
// before it is answered.
//
// The core is not safe for concurrent use: the shell holds one mutex around
// every call and delivers replies without it.
package core
