from vega3d_cli import main

main()
