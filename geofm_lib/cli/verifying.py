"""The command that makes the short claims of ARTIFACT.md anew and compares."""

import click

from geofm_lib.cli.group import commands, example


@commands.command(**example("geofm verify 3 5"))
@click.argument("claims", nargs=-1, metavar="[CLAIM...]")
@click.option("--list", "listed", is_flag=True, help="Show the table of ARTIFACT.md instead.")
def verify(claims: tuple[str, ...], listed: bool) -> int:
    """Make the numbers of ARTIFACT.md's short claims anew and compare.

    CLAIM is a number of that page, or several (13-15); without one all short claims are checked, which takes about ten
    minutes on two quiet cores. Exit code 0: all hold; 1: the lines at the end name those that do not.
    """
    from geofm_lib.catalog import artifact

    table = artifact.claims()
    if listed:
        click.echo(artifact.markdown(table))
        return 0
    wanted = artifact.chosen(" ".join(claims), table)
    from geofm_lib.paper.verify import verify as check

    return int(not all(each.held for each in check(wanted, click.echo)))
