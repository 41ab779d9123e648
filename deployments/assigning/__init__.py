"""Whole files of requests, from prompts to the model of each: predicted in parts that are kept, planned at once.

    Predictions                     a folder: what is expected of each row, in parquet files; what is there is kept
    predict_here, predict_on_ray    fill it, on this machine or on a cluster
    write_result                    the file again, with a model for each row

Arrays of numbers are in memory for all rows at once, texts for some hundred rows at a time.
"""
