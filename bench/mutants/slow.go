package mutants

// OfSlowStores are mutants of what keeps a store that is sick but not dead out of the way: how it is
// found, who passes it by, and how it comes back.
var OfSlowStores = []Mutant{
	{
		Name: "name a slow store to nobody", File: "metad/reconcile/slow.go",
		Old:   "\t\tstores[i].Slow = true",
		New:   "\t\t_ = stores[i]",
		World: World{Package: "./metad/reconcile", Run: "TestSlowStoreIsPassedByAllWhoAskTheTopology$"},
	},
	{
		Name: "put journals onto slow stores", File: "metad/reconcile/topology.go",
		Old:   " || s.Slow && quick ||",
		New:   " || false && quick ||",
		World: World{Package: "./metad/reconcile", Run: "TestEnsemblesPassSlowStores$"},
	},
	{
		Name: "call a store slow after one window", File: "metad/reconcile/slow.go",
		Old:   "case v.slow && v.streak >= slowStreak:",
		New:   "case v.slow && v.streak >= 1:",
		World: World{Package: "./metad/reconcile", Run: "TestHiccupIsForgiven$"},
	},
	{
		Name: "use a slow store again at its first quick window", File: "metad/reconcile/slow.go",
		Old:   "now-s.lastSlow >= s.probation():",
		New:   "now-s.lastSlow > slowWindow:",
		World: World{Package: "./metad/reconcile", Run: "TestSlowStoreIsLeftOut$"},
	},
	{
		Name: "forget how often a store was slow", File: "metad/reconcile/slow.go",
		Old:   "slowProbation<<min(s.times-1, 10)",
		New:   "slowProbation<<0",
		World: World{Package: "./metad/reconcile", Run: "TestStoreThatComesAndGoesStaysOut$"},
	},
	{
		Name: "keep a slow store out for ever", File: "metad/reconcile/slow.go",
		Old:   "\t\t\ts.slow = false\n",
		New:   "\t\t\ts.slow = true\n",
		World: World{Package: "./metad/reconcile", Run: "TestSilenceEndsAProbation$"},
	},
	{
		Name: "leave out however many stores are slow", File: "metad/reconcile/slow.go",
		Old:   "len(slow) > up/slowShare || ",
		New:   "",
		World: World{Package: "./metad/reconcile", Run: "TestLoadMakesNoStoreSlow$"},
	},
	{
		Name: "believe one host against two", File: "metad/reconcile/slow.go",
		Old:   "case !s.slow && slow > fine:",
		New:   "case !s.slow && slow > 0 && fine >= 0:",
		World: World{Package: "./metad/reconcile", Run: "TestOneHostsTroubleIsItsOwn$"},
	},
	{
		Name: "leave a journal on a slow store", File: "blockd/volume/volume.go",
		Old:   " && !(s.Slow && quick) {",
		New:   " && (quick || !quick) {",
		World: World{Package: "./blockd/volume", Run: "TestJournalLeavesASlowStore$"},
	},
	{
		Name: "read from a slow store as from any", File: "blockd/reader/reader.go",
		Old:   "\tif ref.Slow && r.pass(p, store) {",
		New:   "\tif false && r.pass(p, store) {",
		World: World{Package: "./blockd/reader", Run: "TestReadsPassASlowStore$"},
	},
	{
		Name: "never ask a slow store again", File: "blockd/reader/reader.go",
		Old:   "r.passed.Add(1)%probeShare == 0 || p.where.M == 0",
		New:   "p.where.M == 0",
		World: World{Package: "./blockd/reader", Run: "TestReadsPassASlowStore$"},
	},
	{
		Name: "hedge every late read", File: "blockd/reader/reader.go",
		Old:   "if f.earned < hedgeShare && now",
		New:   "if false && now",
		World: World{Package: "./blockd/reader", Run: "TestHedgesAreAShareOfReads$"},
	},
	{
		Name: "save hedges without end", File: "blockd/reader/reader.go",
		Old:   "min(f.earned+1, hedgeShare*hedgeBurst)",
		New:   "f.earned + 1",
		World: World{Package: "./blockd/reader", Run: "TestHedgesAreSavedUpToABurst$"},
	},
}
