"""The names of the ensemble methods and what each does, in few words. Imports nothing."""

FITTED = {
    "mean": "the average of all fold models",
    "weighted": "the members' average by their most likely weights",
    "greedy": "members taken one by one, with replacement, while it helps",
    "bagging": "that average, with bootstrapped heads on the embeddings",
    "boosting": "XGBoost on the embeddings, per encoder",
    "adaboost": "a vote of stumps on the embeddings, per encoder",
    "stacking": "a logistic regression on the members' predictions",
    "stacking-boosted": "XGBoost on the members' predictions, from their mean on",
    "stacking-levels": "a logistic regression on what four other methods say",
    "stacking-embeddings": "stacking with heads on the embeddings beside it",
}
"""Methods that are fitted to what the members said out of fold (methods.py)."""
NETWORK_METHODS = {
    "soup": "one network: the mean of the weights of fine-tunes that share a start",
    "soup-greedy": "the same, of those that do each other no harm",
    "bagging-retrained": "the best trial trained anew on bootstrap resamples of the groups",
}
"""Methods that make networks of their own, whose mean predicts (build.py)."""
GIVEN = ("mean", "boosting", "adaboost", "soup")
"""Methods whose out-of-fold predictions of a row come from networks and fits that have never seen its fold: an estimate
where the members are given and not chosen."""
KNOWN = (*FITTED, *NETWORK_METHODS)
WITHOUT_TRAINING = tuple(name for name in KNOWN if name != "bagging-retrained")
"""what `--method all` builds"""
