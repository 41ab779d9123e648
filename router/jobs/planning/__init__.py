"""The plan of a whole job, from what is expected of its rows: which model answers which, or what would do.

    Workload, Means                 what is expected of the rows; money, and tokens until the deadline
    plan_job -> JobPlan             the proved best plan of all rows, or of as many as possible
             -> Shortfall           what is missing, with the least money and time that would do
    replan_job                      the same for the rows that are left
    with_cascades                   the plan with rows that get a cheap answer first, and a dearer one if need be
    Course, haste                   when that is due, and what of the reserve a late job may use up

Arrays in, arrays out: knows no files, no database and no clock.
"""
