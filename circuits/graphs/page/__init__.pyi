from .report import graph_page as graph_page
