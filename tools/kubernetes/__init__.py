"""Check the Kubernetes files, and make what a cluster would make of them; docs/cluster/kubernetes.md says how.

`python -m tools.kubernetes check FILE_OR_FOLDER ...` holds manifests to the schemas of Kubernetes and to our own rules.
`python -m tools.kubernetes pods FILE_OR_FOLDER` prints the Pods of an Indexed Job. Needs the extra `dev`.
"""
