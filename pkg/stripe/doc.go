// Package stripe codes the shards of segments: k data shards give m parity
// shards, and any k of them give back every block of the others.
//
// A Code is made once per profile and shared; all its methods are safe for
// concurrent use, work in the caller's memory and start no goroutine. Nothing
// here reads, writes or checks bytes against sums: callers check each piece
// before they hand it in, and the result after.
package stripe
