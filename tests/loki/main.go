// Runs a LogQL query over the lines of standard input, which are one stream, by Loki's own parser
// and pipeline: logql QUERY [LABEL=VALUE ...]. Prints one JSON object for each line that a log
// query selects, and one for each group that `sum` counts.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/grafana/loki/v3/pkg/logql/syntax"
	"github.com/prometheus/prometheus/model/labels"
)

func main() {
	if len(os.Args) < 2 {
		stop(fmt.Errorf("call me logql QUERY [LABEL=VALUE ...]"))
	}
	var pairs []string
	for _, label := range os.Args[2:] {
		name, value, _ := strings.Cut(label, "=")
		pairs = append(pairs, name, value)
	}
	stream := labels.FromStrings(pairs...)
	expression, err := syntax.ParseExpr(os.Args[1])
	if err != nil {
		stop(err)
	}
	switch query := expression.(type) {
	case syntax.SampleExpr:
		selector, err := query.Selector()
		if err != nil {
			stop(err)
		}
		if selects(selector, stream) {
			count(query, stream)
		}
	case syntax.LogSelectorExpr:
		if selects(query, stream) {
			filter(query, stream)
		}
	default:
		stop(fmt.Errorf("%T is neither a log query nor a metric query", expression))
	}
}

func selects(selector syntax.LogSelectorExpr, stream labels.Labels) bool {
	for _, matcher := range selector.Matchers() {
		if !matcher.Matches(stream.Get(matcher.Name)) {
			return false
		}
	}
	return true
}

func filter(query syntax.LogSelectorExpr, stream labels.Labels) {
	pipeline, err := query.Pipeline()
	if err != nil {
		stop(err)
	}
	lines := pipeline.ForStream(stream)
	eachLine(func(line string) {
		if printed, found, ok := lines.ProcessString(0, line, labels.EmptyLabels()); ok {
			write(map[string]any{"line": printed, "labels": found.Labels().Map()})
		}
	})
}

func count(query syntax.SampleExpr, stream labels.Labels) {
	extractors, err := query.Extractors()
	if err != nil {
		stop(err)
	}
	groups := map[string]float64{}
	found := map[string]labels.Labels{}
	for _, extractor := range extractors {
		lines := extractor.ForStream(stream)
		eachLine(func(line string) {
			samples, _ := lines.ProcessString(0, line, labels.EmptyLabels())
			for _, sample := range samples {
				group := sample.Labels.Labels()
				groups[group.String()] += sample.Value
				found[group.String()] = group
			}
		})
	}
	for group, sum := range groups {
		write(map[string]any{"value": sum, "labels": found[group].Map()})
	}
}

func eachLine(do func(string)) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		do(lines.Text())
	}
	if err := lines.Err(); err != nil {
		stop(err)
	}
}

func write(value any) {
	if err := json.NewEncoder(os.Stdout).Encode(value); err != nil {
		stop(err)
	}
}

func stop(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
