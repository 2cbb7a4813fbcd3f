package repair

import (
	"math"
	"time"

	"ashlar.dev/pkg/storeproto"
)

// A store of which shard after shard is wrong has a disk, a cable or a controller that
// is not to be trusted. Each shard that was found wrong or missing adds one to the store's
// score, and the score halves every day. At flagAt the store is flagged, and it stays so
// until the score has faded to clearBelow: one bad sector says nothing, a flag does not come and
// go with every other one, and after some quiet days it goes by itself.
const (
	scoreHalf  = 24 * time.Hour
	flagAt     = 4000 // thousandths: four in a day
	clearBelow = 1000
)

// fade brings a score up to date.
func fade(c *storeproto.Care, now time.Time) {
	ms := now.UnixMilli()
	if past := time.Duration(ms-c.ScoreMS) * time.Millisecond; past > 0 {
		c.Score = uint32(float64(c.Score) * math.Exp2(-float64(past)/float64(scoreHalf)))
	}
	c.ScoreMS = ms
	c.Flagged = c.Score >= flagAt || c.Flagged && c.Score >= clearBelow
}

// blame counts n shards that were found wrong or missing.
func blame(c *storeproto.Care, now time.Time, n uint32) {
	fade(c, now)
	c.Score = min(c.Score+1000*n, math.MaxUint32/2)
	c.Flagged = c.Flagged || c.Score >= flagAt
}
