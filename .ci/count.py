"""Counts the test cases of one Bazel invocation from its build events and prints `N passed, N failed`.

A target that ends without a readable test.xml (killed, timed out, not built) counts as one failed case.
"""

import json
import pathlib
import sys
import urllib.parse
import xml.etree.ElementTree


def cases(report: pathlib.Path) -> tuple[int, int, int]:
    """(passed, failed, skipped) of one JUnit file."""
    found = [0, 0, 0]
    for case in xml.etree.ElementTree.parse(report).getroot().iter("testcase"):
        tags = {child.tag for child in case}
        found[1 if tags & {"failure", "error"} else 2 if "skipped" in tags else 0] += 1
    return found[0], found[1], found[2]


def main(events: str) -> int:
    reports: dict[str, tuple[str, list[pathlib.Path]]] = {}  # target and shard -> (status, reports of the last attempt)
    broken: set[str] = set()
    for line in pathlib.Path(events).read_text().splitlines():
        event = json.loads(line)
        if "testResult" in event:
            who = event["id"]["testResult"]
            result = event["testResult"]
            files = [f for f in result.get("testActionOutput", []) if f["name"] == "test.xml"]
            paths = [pathlib.Path(urllib.parse.unquote(urllib.parse.urlparse(f["uri"]).path)) for f in files]
            reports[f"{who['label']}#{who.get('shard', 0)}"] = (result["status"], paths)
        elif "testSummary" in event and event["testSummary"]["overallStatus"] in ("FAILED_TO_BUILD", "NO_STATUS"):
            broken.add(event["id"]["testSummary"]["label"])
    passed, failed, skipped = 0, len(broken), 0
    for target, (status, paths) in sorted(reports.items()):
        good, bad, left = 0, 0, 0
        for path in paths:
            try:
                counted = cases(path)
            except (OSError, xml.etree.ElementTree.ParseError):
                continue
            good, bad, left = good + counted[0], bad + counted[1], left + counted[2]
        if status != "PASSED" and bad == 0:
            bad = 1
        if status == "PASSED" and good + bad + left == 0:
            good = 1
        if bad:
            print(f"{target}: {status}, {bad} failed")
        passed, failed, skipped = passed + good, failed + bad, skipped + left
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 0 if failed == 0 and passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
