"""The workbench: a page where prompts are read, edited, run, compared and kept as cases.

access     who may use it: mitmweb's password or cookie, or the admin listener's token
calls      the calls that it shows, and who wants to hear of changes
rows       a flow -> a line of the list
shape      a call's bodies -> messages, tools, parameters and answer, of bounded size
documents  a flow -> all that the page shows of one call
child      what could take long, in a process of its own with a time limit
edits      what the page sends back -> the request to be sent
runs       an edited prompt to several places at once, streaming
hold       the calls of one client, caught before they are sent
case_files sets of cases in a folder
handlers   the HTTP interface
site       the page's files, and the policy that a browser keeps
setup      how mitmweb and the headless host get it
"""
