module fab-session-injector/tests/cluster/crds

go 1.26.0

require (
	github.com/argoproj/argo-cd/v3 v3.4.13
	github.com/cilium/cilium v1.20.2
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
