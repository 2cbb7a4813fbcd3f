package mutants

// Mutant is one broken rule.
type Mutant struct {
	Name  string // what the mistake is, in a few words
	File  string // from the root of the tree
	Old   string // is there once
	New   string
	World World // must fail
}

// World is tests that pass on the source as it is.
type World struct {
	Package string // from the root of the tree
	Run     string
	Env     []string
}

// The worlds: random schedules by seed, judged by models and ledgers. Where a room has
// none the test of the rule stands in.
var (
	journal = World{Package: "./blockd/journal", Run: "TestRandomSchedulesLoseNothing", Env: []string{"SCHEDULES=1000"}}
	volume  = World{Package: "./blockd/volume/coretest", Run: "TestEveryOrderOfEvents|TestZombiesAndHeirs|TestCalmWeather"}
	crashes = World{Package: "./blockd/chunk", Run: "TestCrashKeepsEveryPromise|TestOrderOfWritesAndSyncs"}
	leases  = World{Package: "./pkg/storeproto/core", Run: "TestNobodyServesBelowAnAnsweredFence"}
	metad   = World{Package: "./metad/state", Run: "TestModel"}
	shards  = World{Package: "./blockd/chunk", Run: "TestStoreAgainstMaps"}
	reader  = World{Package: "./blockd/reader", Run: "Test"}
	syncs   = World{Package: "./blockd/chunk", Run: "TestASync"}
)

// All are the mutants, by the way a byte takes.
var All = []Mutant{
	{
		Name: "acknowledge when one store has it", File: "blockd/journal/member.go",
		Old:   "	return max(second, e.from[k])",
		New:   "	return max(first, e.from[k])",
		World: journal,
	},
	{
		Name: "serve before the opening is on record", File: "blockd/volume/core/origin.go",
		Old:   "	return c.acked >= c.load.proof\n",
		New:   "	return true\n",
		World: World{Package: "./blockd/volume/coretest", Run: "TestOpeningIsOnRecordBeforeItServes"},
	},
	{
		Name: "take shards that a restored metad hears nothing of", File: "pkg/storeproto/core/shard.go",
		Old:   "	if err := c.checkTold(h, epoch); err != nil {",
		New:   "	if err := error(nil); err != nil {",
		World: World{Package: "./pkg/storeproto/core", Run: "TestStoreThatHasToldTakesNoShardsOfNewerVersions"},
	},
	{
		Name: "take appends of the epoch before the fence", File: "pkg/storeproto/core/stream.go",
		Old:   "vol != nil && a.Epoch < vol.fence {",
		New:   "vol != nil && a.Epoch+1 < vol.fence {",
		World: journal,
	},
	{
		Name: "forget the fence in a crash", File: "blockd/chunk/index.go",
		Old:   "		set(volumeKey(keyFence, row.Volume), encodeFence(row))",
		New:   "		_ = row",
		World: crashes,
	},
	{
		Name: "answer before the log is synced", File: "blockd/chunk/log/log.go",
		Old:   "	if err := l.cur.f.SyncData(); err != nil {\n		return fmt.Errorf(\"sync log: %w\", err)",
		New:   "	if err := error(nil); err != nil {\n		return fmt.Errorf(\"sync log: %w\", err)",
		World: crashes,
	},
	{
		Name: "answer before the index is synced", File: "blockd/chunk/writer.go",
		Old:   "		return s.index.await(pending)",
		New:   "		return nil",
		World: crashes,
	},
	{
		Name: "answer before a shard's data is synced", File: "blockd/chunk/extents.go",
		Old:   "	return f.sync.do(f.SyncData)",
		New:   "	_ = f\n	return nil",
		World: crashes,
	},
	{
		Name: "count a sync that began before the write", File: "blockd/chunk/groupsync.go",
		Old:   "want := g.mu.begun + 1;",
		New:   "want := g.mu.begun;",
		World: syncs,
	},
	{
		Name: "take a late put of a deleted shard", File: "pkg/storeproto/core/shard.go",
		Old:   "	if c.Deleted(h.Volume, h.Segment, h.Generation) {",
		New:   "	if false {",
		World: shards,
	},
	{
		Name: "take streams of a purged volume", File: "pkg/storeproto/core/stream.go",
		Old:   "purged && a.Epoch <= all.generation.Epoch {",
		New:   "false && purged && a.Epoch <= all.generation.Epoch {",
		World: World{Package: "./pkg/storeproto/core", Run: "TestPurgedVolumeTakesNoStream$"},
	},
	{
		Name: "answer a fence while grants of before a start may stand", File: "pkg/storeproto/core/fence.go",
		Old:   "		until := c.cfg.Started + c.cfg.LeaseTerm\n",
		New:   "		until := time.Duration(0)\n",
		World: leases,
	},
	{
		Name: "take any lease request for an acknowledgement", File: "pkg/storeproto/core/lease.go",
		Old:   "		if h.acked >= f.Naming {\n			delete(f.waits, l.Holder.Host)",
		New:   "		if true {\n			delete(f.waits, l.Holder.Host)",
		World: leases,
	},
	{
		Name: "confirm an epoch below the fence", File: "pkg/storeproto/core/fence.go",
		Old:   "vol != nil && vol.fence > e {",
		New:   "vol != nil && vol.fence > e+1 {",
		World: journal,
	},
	{
		Name: "count a grant from its answer", File: "blockd/journal/lease.go",
		Old:   "int64(d.at+d.Lease.Term)",
		New:   "int64(now+d.Lease.Term)",
		World: journal,
	},
	{
		Name: "read with one grant", File: "blockd/journal/reads.go",
		Old:   "	return n >= quorum && !c.claim.Fenced()",
		New:   "	return n >= 1 && !c.claim.Fenced()",
		World: journal,
	},
	{
		Name: "serve before the run is on two stores again", File: "blockd/journal/change.go",
		Old:   "		if s := &c.streams[k]; s.ackedAt < s.tail {\n			return false",
		New:   "		if s := &c.streams[k]; false && s.ackedAt < s.tail {\n			return false",
		World: journal,
	},
	{
		Name: "recover what a closed ensemble has beyond its end", File: "blockd/journal/recover.go",
		Old:   "		if e.Closed {\n			s.from, s.to =",
		New:   "		if false {\n			s.from, s.to =",
		World: World{Package: "./blockd/journal", Run: "TestClosedEnsembleCountsOnlyWithinItsBounds$"},
	},
	{
		Name: "recover a tail of an older epoch", File: "blockd/journal/recover.go",
		Old:   "		if b.Epoch < r.epoch {",
		New:   "		if false {",
		World: World{Package: "./blockd/journal", Run: "TestRunEndsWhereTheEpochFalls$"},
	},
	{
		Name: "miss that a run has ended", File: "blockd/journal/recover.go",
		Old:   "	if !journal.begun || op.filled {",
		New:   "	if !journal.begun || journal.done {",
		World: World{Package: "./blockd/journal", Run: "TestRunEndsWhereTheEpochFalls$"},
	},
	{
		Name: "recover what a later opening discarded", File: "blockd/journal/recover.go",
		Old:   "		o.served(b.Epoch)\n",
		New:   "",
		World: World{Package: "./blockd/journal", Run: "TestDiscardedTailDoesNotComeBackBehindWhatIsReleased$"},
	},
	{
		Name: "take two of three for enough of a found ensemble", File: "blockd/journal/list.go",
		Old:   "	if e.Found {\n		return max(",
		New:   "	if false {\n		return max(",
		World: World{Package: "./blockd/journal", Run: "TestFoundEnsembleNeedsAllWhoToldOfIt$"},
	},
	{
		Name: "want a checkpoint for an older code where nothing has changed", File: "blockd/volume/core/recode.go",
		Old:   "			c.stir(now, fx)\n",
		New:   "			c.check.force = true\n",
		World: World{Package: "./blockd/volume/coretest", Run: "TestPagesOfAQuietDiskDoNotKeepAnOlderCode$"},
	},
	{
		Name: "take the list for replaced by its looks", File: "blockd/journal/change.go",
		Old:   "	if l.Complete && len(l.Ensembles) == 1",
		New:   "	if len(l.Ensembles) == 1",
		World: World{Package: "./blockd/journal", Run: "TestFirstListIsReplacedOnlyWhenMetadSaysSo$"},
	},
	{
		Name: "end the run where a store lost synced records", File: "blockd/journal/recover.go",
		Old:   "		if s.counted && s.to >= r.next {",
		New:   "		if false {",
		World: journal,
	},
	{
		Name: "release the journal when the commit is sent", File: "blockd/volume/core/commit.go",
		Old:   "		if c.state == stateFenced {\n			return\n		}\n	}\n}",
		New:   "		if c.state == stateFenced {\n			return\n		}\n		c.journal.Release(now, storeproto.Journal, m.last, &fx.Journal)\n	}\n}",
		World: volume,
	},
	{
		Name: "let a commit overtake an older one", File: "blockd/volume/core/commit.go",
		Old:   "		if !m.packing || m.unready > 0 || !c.journal.Room(storeproto.Meta) {\n			return",
		New:   "		if !m.packing || m.unready > 0 || !c.journal.Room(storeproto.Meta) {\n			continue",
		World: volume,
	},
	{
		Name: "count a segment whose shards were not all put", File: "blockd/volume/core/pack.go",
		Old:   "	if err != nil {\n		c.stats.PackRetries++",
		New:   "	if false {\n		c.stats.PackRetries++",
		World: volume,
	},
	{
		Name: "delete what was dead before metad has the checkpoint", File: "blockd/volume/core/checkpoint.go",
		Old:   "	c.stats.Checkpoints++\n	c.askCheckpoint(fx)",
		New:   "	c.stats.Checkpoints++\n	for _, s := range st.dead {\n		c.delete(s, fx)\n	}\n	st.dead = nil\n	c.askCheckpoint(fx)",
		World: World{Package: "./blockd/volume/coretest", Run: "TestTreesStayUntilMetadHasALaterCheckpoint$"},
	},
	{
		Name: "let overlapping writes pass a long one", File: "blockd/volume/core/locks.go",
		Old:   "		if o.Extent.Overlaps(e) {",
		New:   "		if false && o.Extent.Overlaps(e) {",
		World: volume,
	},
	{
		Name: "move a block over a newer write", File: "blockd/volume/core/cleanjob.go",
		Old:   "		if !ok {\n			a.at++ //",
		New:   "		if !ok && a.from == nil {\n			a.at++ //",
		World: volume,
	},
	{
		Name: "call live what the map has not any more", File: "blockd/volume/core/cleanjob.go",
		Old:   "	return at[0] == loc, miss",
		New:   "	return true, miss",
		World: World{Package: "./blockd/volume/coretest", Run: "TestRewrittenSegmentKeepsItsSlots$"},
	},
	{
		Name: "delete a generation that metad's checkpoint names", File: "blockd/volume/core/clean.go",
		Old:   "		if o.position > position {",
		New:   "		if false {",
		World: volume,
	},
	{
		Name: "give up a failed generation by its segment's name", File: "blockd/volume/core/pack.go",
		Old:   "	if j.clean != nil && j.clean.Rewrite {",
		New:   "	if false {",
		World: volume,
	},
	{
		Name: "use a generation's name again", File: "blockd/volume/core/cleanjob.go",
		Old:   "	c.clean.number = max(c.clean.number, 1) + 1",
		New:   "	c.clean.number = 2",
		World: volume,
	},
	{
		Name: "clean a segment that index records name", File: "blockd/volume/core/clean.go",
		Old:   " || c.long.known[s] != nil || c.deletes[s] ||",
		New:   " || c.deletes[s] ||",
		World: World{Package: "./blockd/volume/coretest", Run: "TestCleanerLeavesSegmentsOfIndexRecordsAlone$"},
	},
	{
		Name: "clean inside a commit", File: "blockd/volume/core/clean.go",
		Old:   "begun := len(c.apply) > 0 && c.apply[0].begun",
		New:   "begun := false",
		World: World{Package: "./blockd/volume/coretest", Run: "TestCleaningBeginsBetweenCommits$"},
	},
	{
		Name: "reap what is put under the present epoch", File: "blockd/volume/core/reap.go",
		Old:   "return g.Epoch < c.cfg.Epoch && c.state",
		New:   "return c.state",
		World: World{Package: "./blockd/volume/coretest", Run: "TestNothingOfThePresentEpochIsALeftover$"},
	},
	{
		Name: "reap what the table names", File: "blockd/volume/core/reap.go",
		Old:   "	if _, ok := c.table.Get(s); ok {\n		return true",
		New:   "	if _, ok := c.table.Get(s); ok {\n		return false",
		World: volume,
	},
	{
		Name: "reap before the run is covered", File: "blockd/volume/core/reap.go",
		Old:   " && k.Covered >= r.run",
		New:   "",
		World: World{Package: "./blockd/volume/coretest", Run: "TestLeftoversWaitForACheckpointThatCoversTheRun$"},
	},
	{
		Name: "reap segments that only index records name", File: "blockd/volume/core/reap.go",
		Old:   "	return c.long.known[s] != nil || c.deletes[s]",
		New:   "	return c.deletes[s]",
		World: World{Package: "./blockd/volume/coretest", Run: "TestSegmentsOfTheRunAreNoLeftovers$"},
	},
	{
		Name: "forget spans though a store was not asked", File: "blockd/volume/core/reap.go",
		Old:   "r.wanted && r.whole && len(r.doomed) == 0",
		New:   "r.wanted && len(r.doomed) == 0",
		World: World{Package: "./blockd/volume/coretest", Run: "TestSpansStayUntilEveryStoreWasAsked$"},
	},
	{
		Name: "look for no leftovers of a quiet disk", File: "blockd/volume/core/reap.go",
		Old:   "	if !r.wanted || r.ready || r.hasty == 0 ||",
		New:   "	if true || !r.wanted || r.ready || r.hasty == 0 ||",
		World: World{Package: "./blockd/volume/coretest", Run: "TestOwnerOfAQuietDiskFindsLeftovers$"},
	},
	{
		Name: "write over a shard that is right", File: "blockd/repair/mend.go",
		Old:   "	case err == nil:\n		return right, nil",
		New:   "	case false:\n		return right, nil",
		World: World{Package: "./blockd/repair", Run: "TestRightShardIsNotWritten$"},
	},
	{
		Name: "replace a shard by other content", File: "blockd/chunk/replace.go",
		Old:   "	case !have.Equal(h):",
		New:   "	case false:",
		World: World{Package: "./blockd/chunk", Run: "TestConformanceInMemory$"},
	},
	{
		Name: "replace a shard that was deleted meanwhile", File: "blockd/chunk/replace.go",
		Old:   "	row, _, err := s.findShard(n)\n	if err == nil && !slices.Equal(row.place, old.place) {",
		New:   "	row, err := old, error(nil)\n	if err == nil && !slices.Equal(row.place, old.place) {",
		World: crashes,
	},
	{
		Name: "put a missing shard back without the look back", File: "blockd/repair/mend.go",
		Old:   "	if err := w.confirm(ctx, s, used); err != nil {",
		New:   "	if err := error(nil); err != nil {",
		World: World{Package: "./blockd/repair", Run: "TestMissingShardOfADeletedSegmentDoesNotComeBack$"},
	},
	{
		Name: "call a shard missing at once", File: "blockd/repair/scrub.go",
		Old:   " || w.cfg.Clock.Sleep(ctx, settle) != nil",
		New:   "",
		World: World{Package: "./blockd/repair", Run: "TestShardBeingPutIsNotMissing$"},
	},
	{
		Name: "believe a store's bytes", File: "blockd/reader/degraded.go",
		Old:   "		if !stripe.CheckBlock(",
		New:   "		if false && !stripe.CheckBlock(",
		World: reader,
	},
	{
		Name: "ask nobody who is believed away", File: "blockd/reader/degraded.go",
		Old:   "	if len(pieces) < int(p.where.K) && !mayWait {",
		New:   "	if false && !mayWait {",
		World: World{Package: "./blockd/reader", Run: "TestStoresBelievedAway"},
	},
	{
		Name: "change a list that changed meanwhile", File: "metad/state/list.go",
		Old:   "	if at.Version != v.ListVersion {",
		New:   "	if false {",
		World: World{Package: "./metad/state", Run: "TestListChangesCompareTheVersion$"},
	},
	{
		Name: "wait for lists older than the checkpoint", File: "metad/state/rebuild.go",
		Old:   "		since = v.Checkpoint.Epoch\n",
		New:   "		since = 0\n",
		World: World{Package: "./metad/state", Run: "TestRestoredStateTakesTheHighestOfEverything$"},
	},
	{
		Name: "forget what stores found after the backup", File: "metad/state/rebuild.go",
		Old:   "		if compareEnsembles(e, last) <= 0 || e.Epoch < since {",
		New:   "		if true || compareEnsembles(e, last) <= 0 || e.Epoch < since {",
		World: World{Package: "./metad/state", Run: "TestRestoredStateTakesTheHighestOfEverything$"},
	},
	{
		Name: "take versions of groups back that were forgotten", File: "metad/state/rebuildgroups.go",
		Old:   "	if !ok || v.Version >= before[at].Versions[0].Version {",
		New:   "	if true || !ok || v.Version >= before[at].Versions[0].Version {",
		World: World{Package: "./metad/state", Run: "TestRestoredStateDoesNotTakeBackForgottenVersions$"},
	},
	{
		Name: "give segment names twice", File: "metad/state/apply.go",
		Old:   "	m.nextSequence = end\n",
		New:   "",
		World: metad,
	},
}
