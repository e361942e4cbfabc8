"""The published package's names, pipelines and old module paths, so that its users' scripts run unchanged.

Nothing new is in here. Importing this loads nothing; `names` says where each published name lives.
"""
