"""python -m penstock.sdk.conformance"""

from penstock.sdk.conformance.command import main

main()
