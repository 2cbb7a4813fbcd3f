// Package repair gives a store the shards that it lacks. When metad gives a slot of a
// placement group to another store, that store's Worker asks the group's other stores
// what there is, pulls k shards of each segment, codes the missing one, and puts it. When
// nothing is missing it says so, and metad forgets the older versions of the group.
//
// The Worker also looks after the shards that the store has: those that a read finds wrong
// or missing are rebuilt from others and written again, and a scrub looks for more.
//
// A Worker belongs to one store and is the only one that puts rebuilt shards there and
// takes away what is the store's no more. It decides nothing about who gets what; that
// is metad's, and it comes with the topology. DESIGN.md has the schedules.
package repair
