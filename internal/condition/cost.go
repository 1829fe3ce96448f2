package condition

import (
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// What the worst event holds, for the estimate made when a condition is stored: maxElements in a list, an object or a text,
// and what the lists within a list have to share, the bytes of an event, in each of theirs. A text or a list of small
// elements may be larger than that; then the limit on each evaluation stands.
const (
	eventBytes  = 1 << 20
	maxElements = 10_000
)

// bounds tells the estimator how large the parts of an event may be.
type bounds struct{}

// EstimateSize bounds what is read from the event by how many lists or objects it is walked through to get there.
func (bounds) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	if node.ComputedSize() != nil {
		return nil
	}
	most, shared := uint64(maxElements), uint64(eventBytes)
	for _, step := range node.Path() {
		if step == "@items" || step == "@keys" || step == "@values" {
			shared = max(shared/most, 1)
			most = min(most, shared)
		}
	}
	return &cost.SizeEstimate{Max: most}
}

// EstimateCallCost leaves the costs of functions to CEL.
func (bounds) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// watch counts at run time what CEL counts as one unit because it cannot tell the types beforehand.
type watch struct{}

// CallCost is that of a text or list that is made of two: a tenth of its size, as CEL has it for texts.
func (watch) CallCost(function, _ string, _ []ref.Val, result ref.Val) *uint64 {
	if function != operators.Add {
		return nil
	}
	var size int64
	switch v := result.(type) {
	case types.String:
		size = int64(len(v))
	case types.Bytes:
		size = int64(len(v))
	case traits.Lister:
		size, _ = v.Size().Value().(int64)
	default:
		return nil
	}
	units := uint64(size)/10 + 1
	return &units
}
