// Package devices has small bodies of nbd.Device: Null and Memory stand alone; Delay, Faults and
// ReadOnly wrap another device and stack. Operators use them to try a client, tests
// to be nasty to one.
//
// It holds nothing durable. All devices are safe for concurrent use.
package devices
