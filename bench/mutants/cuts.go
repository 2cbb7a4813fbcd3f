package mutants

// InPowerCuts are mutants that clusters which lose power must notice (bench/crash): of the syncs
// that a store's answers wait for, and of what is durable before the journal is released.
var InPowerCuts = inWorld(World{Package: "./bench/crash", Run: "TestAcknowledgedWritesOutlivePowerCuts", Env: []string{"CUTS=60"}}, taken(
	"answer before the log is synced",
	"answer before the index is synced",
	"answer before a shard's data is synced",
	"acknowledge when one store has it",
	"release the journal when the commit is sent",
))

// inWorld gives mutants another world, and names that tell them from those of All.
func inWorld(w World, list []Mutant) []Mutant {
	for i := range list {
		list[i].Name += ", when power is lost"
		list[i].World = w
	}
	return list
}
