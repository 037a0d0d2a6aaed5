"""`junit.xml`: one test case per limit, so that a pipeline shows which one does not hold."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from edgeproof.evaluation.results import KNEW, Results
from edgeproof.reports import wording


def render_junit(results: Results) -> str:
    """Return the limits of an eval run in the JUnit format that GitHub, GitLab and Jenkins read."""
    failed = sum(not gate.passed for gate in results.gates)
    counts = {"tests": str(len(results.gates)), "failures": str(failed), "errors": "0"}
    root = Element("testsuites", {"name": "edgeproof", **counts})
    suite = SubElement(root, "testsuite", {"name": f"{results.data['name']}, {results.data['split']}", **counts})
    for gate in results.gates:
        case = SubElement(suite, "testcase", {"classname": f"{gate.engine} on {gate.set}", "name": gate.text})
        if gate.passed:
            SubElement(case, "system-out").text = gate.message
        else:
            failure = SubElement(case, "failure", {"type": gate.metric, "message": gate.message})
            failure.text = f"measured {wording.measured(gate)}, limit {wording.required(gate)}, n = {gate.count}"
            failure.text += f"; {KNEW[gate.threat]}" if gate.threat else ""
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"
