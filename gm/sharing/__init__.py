"""Pictures shared out among devices that MindSpore's launcher (msrun) started; no mindspore here.

    roles        what a process does of one command
    launcher     which of the devices this process is
    folder       what the devices tell one another, as files beside the results
    supervisor   the launched process: it starts the one that computes, and says how that ended
    member       the computing process: which videos are its own

The launcher ends all processes as soon as one of them fails. So the one that it started computes nothing: a process of
its own does, whose end, by a fault or killed for its memory, leaves the others at work. They need no sum over all
devices and take the next video when they have done one, so that a slow device holds nobody up.
"""
